"""Frames, tables, properties and URLs, without a server."""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
from typing import Any

import pytest
from amqp import serialization
from hypothesis import given
from hypothesis import strategies as st
from kernel_lib_amqp import ConnectionLost, frames, parse, properties, tables, wire
from kernel_lib_amqp.frames import Parser

from kernel import errors

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(st.text(max_size=12), JSON, max_size=8)


@given(TABLES)
def test_a_table_comes_back_as_it_was(table: dict[str, Any]) -> None:
    found = tables.load(tables.dump(table))
    assert found == table
    assert repr(found) == repr(table)


@given(TABLES)
def test_py_amqp_reads_our_tables_and_we_read_its(table: dict[str, Any]) -> None:
    (theirs,), _ = serialization.loads("F", tables.dump(table), 0)
    assert theirs == table
    assert tables.load(serialization.dumps("F", (table,))) == table


def test_what_a_table_cannot_hold_is_refused() -> None:
    for odd in ({"n": 2**63}, {"x" * 256: 1}, {"o": object()}):
        with pytest.raises((ValueError, TypeError), match=r"\w"):
            tables.dump(odd)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_table_are_told_so(data: bytes) -> None:
    for raw in (data, struct.pack(">I", len(data)) + data):
        try:
            assert isinstance(tables.load(raw), dict)
        except errors.InvalidTaskError:
            continue


@pytest.mark.parametrize("seconds", [2**40, 2**60, 2**64 - 1])
def test_times_beyond_the_clock_are_told_so(seconds: int) -> None:
    field = b"\x01tT" + struct.pack(">Q", seconds)
    with pytest.raises(errors.InvalidTaskError):
        tables.load(struct.pack(">I", len(field)) + field)
    head = properties.dump("", "", b"\0\0\0\0", {"timestamp": seconds})
    with pytest.raises(errors.InvalidTaskError):
        properties.load(head, *properties.split(head)[3:])


def test_deep_tables_are_told_so() -> None:
    inner = b""
    for _ in range(2000):
        inner = b"\x01aF" + struct.pack(">I", len(inner)) + inner
    with pytest.raises(errors.InvalidTaskError, match="deep"):
        tables.load(struct.pack(">I", len(inner)) + inner)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_properties_are_told_so(head: bytes) -> None:
    try:
        _, _, table, flags, at = properties.split(head)
        assert isinstance(properties.load(head, flags, at), dict)
        if table:
            tables.load(table)
    except errors.InvalidTaskError:
        pass


def test_properties_come_back_as_they_were() -> None:
    given_ = {
        "delivery_mode": 2,
        "priority": 7,
        "correlation_id": "ž",
        "reply_to": "",
        "expiration": "1000",
        "type": "t",
    }
    head = properties.dump("application/json", "utf-8", tables.dump({"a": 1}), given_)
    kind, encoding, table, flags, at = properties.split(head)
    assert (kind, encoding, tables.load(table)) == ("application/json", "utf-8", {"a": 1})
    assert properties.load(head, flags, at) == given_


def stream(count: int, frame_max: int) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Deliveries as a server would send them, with what they hold."""
    chance = random.Random(7)
    parts: list[bytes] = []
    held: list[tuple[bytes, bytes]] = []
    for tag in range(count):
        args = b"\x02k1" + struct.pack(">Q", tag + 1) + b"\0\0\x01q"
        head = properties.dump("application/json", "utf-8", tables.dump({"n": tag}), {})
        body = chance.randbytes(chance.choice((0, 1, 300, 5000, frame_max - 8, 3 * frame_max)))
        published = b"".join(frames.publish(1, b"", head, body, frame_max))
        parts += (frames.method(1, frames.BASIC_DELIVER, args), published[published.index(frames.END) + 1 :])
        if tag % 5 == 0:
            parts.append(frames.HEARTBEAT)
        held.append((head, body))
    return b"".join(parts), held


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_frames_are_cut_the_same_however_they_arrive(step: int) -> None:
    data, held = stream(30 if step > 1 else 8, 8192)
    parser = Parser(8192)
    found = [frame for at in range(0, len(data), step) for frame in parser.feed(data[at : at + step])]
    assert [(head, body) for _, _, _, head, body in found] == held
    assert {method for _, method, _, _, _ in found} == {frames.BASIC_DELIVER}


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\0\1\xff\xff\xff\xff",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x01\0\1\0\0\0\4\0\x3c\0\x50\0",
        b"\x03\0\1\0\0\0\1x\xce",
    ],
)
def test_what_is_no_amqp_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ConnectionLost, match="server sent"):
        Parser(131072).feed(data + b"\0" * 8)


def test_urls() -> None:
    (plain,) = parse("amqp://")
    assert (plain.host, plain.port, plain.user, plain.password, plain.vhost) == (
        "localhost",
        5672,
        "guest",
        "guest",
        "/",
    )
    (full,) = parse("pyamqp://me:p%40ss@rabbit:5673/%2Fshop?heartbeat=7")
    assert (full.host, full.port, full.user, full.password) == ("rabbit", 5673, "me", "p@ss")
    assert (full.vhost, full.heartbeat, full.tls) == ("/shop", 7.0, None)
    assert "p%40ss" not in full.shown
    first, second, third = parse("amqp://me:secret@one/shop;two:5673;amqp://three")
    assert [(each.host, each.vhost, each.user) for each in (first, second, third)] == [
        ("one", "shop", "me"),
        ("two", "shop", "me"),
        ("three", "/", "guest"),
    ]


def test_certificates_are_verified_unless_told_otherwise() -> None:
    (secure,) = parse("amqps://rabbit")
    assert secure.port == 5671
    assert secure.tls == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "rabbit"}
    (open_,) = parse("amqps://rabbit", options={"ssl": {"cert_reqs": ssl.CERT_NONE}})
    assert open_.tls == {"cert_reqs": ssl.CERT_NONE, "server_hostname": None}
    with pytest.raises(errors.ImproperlyConfigured, match="cafile"):
        parse("amqps://rabbit", options={"ssl": {"cafile": "x"}})


@pytest.mark.parametrize("url", ["redis://x", "", "amqp://h:99999//", "amqp://h:port//"])
def test_what_is_no_url_is_told_so(url: str) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match=r"\w"):
        parse(url)


class _Quiet(wire.Wire):
    """A connection whose server has been silent for too long, and speaks after the first look at the socket."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, said: bytes) -> None:
        self.shown, self.heartbeat, self.lost = "amqp://test", 1.0, None
        self._longest_silence = self.heard_at = 0.0
        self._sock, self._theirs, self._said = ours, theirs, said
        self._parser, self._waiting, self._closed_channels = Parser(4096), [], {}
        self._bell_out, self._bell = -1, -1
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)

    def _received(self) -> list[frames.Frame] | None:
        found = super()._received()
        self._theirs.send(self._said)
        self._said = b""
        return found


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_what_comes_just_before_a_connection_is_given_up_is_not_lost(timeout: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        said = frames.settle(1, frames.BASIC_ACK, 7, 0)
        quiet = _Quiet(ours, theirs, said)
        found = quiet.read(timeout) or quiet.read(0)
        assert [frame[:2] for frame in found] == [(1, frames.BASIC_ACK)]


def test_a_server_that_stays_silent_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(ConnectionLost, match="no heartbeat"):
            _Quiet(ours, theirs, b"").read(5.0)
