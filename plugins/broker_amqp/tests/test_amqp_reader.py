"""Messages read by what they have in common with others: always as they are read one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_broker_amqp import envelope
from kernel_broker_amqp import reader as module
from kernel_broker_amqp.envelope import AmqpMessage
from kernel_broker_amqp.reader import Reader
from kernel_lib_amqp import properties as content
from kernel_lib_amqp import tables

from kernel import errors
from kernel.message import Message
from kernel.shape import ShapedMessage

HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": "t.add",
    "id": "a1",
    "root_id": "a1",
    "parent_id": None,
    "argsrepr": "(1,)",
    "kwargsrepr": "{}",
    "retries": 0,
    "timelimit": [None, None],
    "origin": "gen1@here",
    "stamps": {},
}
PROPERTIES: dict[str, Any] = {"delivery_mode": 2, "priority": 0, "correlation_id": "a1", "reply_to": "r1"}

texts = st.text(max_size=12) | st.sampled_from(["é", "\ud800", "\x00", "\x02idS\x00\x00\x00\x01a", "x-kernel", "", "$"])
scalars = st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2))
names = st.sampled_from([*HEADERS, "group", "group_index", "shadow", "eta", "expires", "x", "x-kernel", "n" * 40])
shorts = st.text(max_size=40) | st.sampled_from(["\x00", "a\x00b", "x" * 36, ""])


def head(headers: dict[str, Any], properties: dict[str, Any]) -> bytes:
    return content.dump("application/json", "utf-8", tables.dump(headers), properties)


def outcome(message: Message) -> str:
    """All that can be read of a message, in its order."""
    told = []
    for name in ("headers", "properties", "id", "task"):
        try:
            told.append(repr(getattr(message, name)))
        except errors.InvalidTaskError:
            told.append("refused")
    return repr((told, message.body, message.content_type, message.content_encoding))


def check(heads: Sequence[bytes], body: bytes = b"[[], {}, {}]") -> list[Message]:
    """What a reader makes of these one after the other, each compared with the message read alone."""
    reader = Reader()
    found = [reader.read(each, body) for each in heads]
    for message, each in zip(found, heads, strict=True):
        alone = AmqpMessage(each, body)
        assert outcome(message) == outcome(alone)
        assert envelope.due_of(message) == envelope.due_of(alone)
        assert envelope.state_of(message) == envelope.state_of(alone)
    return found


def test_the_second_of_a_kind_is_read_by_the_first() -> None:
    second = {**HEADERS, "id": "b" * 36, "root_id": "c3", "argsrepr": "('it''s é ☃',)", "task": "t.mul", "origin": ""}
    found = check([head(HEADERS, PROPERTIES), head(second, {**PROPERTIES, "correlation_id": "b" * 36, "reply_to": ""})])
    assert not isinstance(found[0], ShapedMessage)
    assert isinstance(found[1], ShapedMessage)


@pytest.mark.parametrize("properties", [{}, {"reply_to": "r" * 36}, {**PROPERTIES, "expiration": "5000"}])
def test_whatever_properties_there_are(properties: dict[str, Any]) -> None:
    other = {name: "another" if name == "reply_to" else value for name, value in properties.items()}
    found = check([head(HEADERS, properties), head({**HEADERS, "id": "b2"}, other)])
    assert isinstance(found[1], ShapedMessage)


def test_numbers_are_read() -> None:
    headers = {**HEADERS, "group": "g", "group_index": 0}
    found = check([head({**headers, "group_index": at}, PROPERTIES) for at in (0, 17, 2**31 - 1, -1)])
    assert [isinstance(message, ShapedMessage) for message in found] == [False, True, True, False]


def test_a_time_of_its_own() -> None:
    etas = ("2026-11-22T01:00:00+00:00", "2026-11-22T01:00:00.5+00:00", "never")
    found = check([head({**HEADERS, "eta": eta}, PROPERTIES) for eta in etas])
    assert [envelope.due_of(message) for message in found] == [1795309200.0, 1795309200.5, 0.0]
    assert isinstance(found[1], ShapedMessage)


def test_each_message_has_lists_of_its_own() -> None:
    _, second, third = check([head({**HEADERS, "stamps": {"a": ["b"]}}, PROPERTIES)] * 3)
    assert isinstance(third, ShapedMessage)
    second.headers["stamps"]["a"].append("c")
    second.headers["timelimit"].append(1)
    second.properties["priority"] = 9
    assert third.headers["stamps"] == {"a": ["b"]}
    assert third.headers["timelimit"] == [None, None]
    assert third.properties["priority"] == 0


def test_it_can_be_sent_again() -> None:
    second = head({**HEADERS, "id": "b2", "argsrepr": "('é',)"}, PROPERTIES)
    message = check([head(HEADERS, PROPERTIES), second])[1]
    assert isinstance(message, ShapedMessage)
    assert envelope.restated(message, {}) == second
    assert envelope.restated(message, {"starts": 1}) == envelope.restated(AmqpMessage(second, b""), {"starts": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"task": ""},
        {"id": None},
        {"id": 5},
        {"argsrepr": None},
        {"argsrepr": "\n"},
        {"origin": "ä"},
        {"retries": 1},
        {"timelimit": [1, None]},
        {"x": {"id": "v"}},
        {envelope.STATE: {"starts": 1}},
    ],
)
def test_of_another_kind(changes: dict[str, Any]) -> None:
    heads = [head(HEADERS, PROPERTIES), head({**HEADERS, **changes}, PROPERTIES)]
    assert not isinstance(check(heads)[1], ShapedMessage)


@pytest.mark.parametrize(("name", "is_model"), [("n" * 31, True), ("n" * 40, False)])
def test_a_text_before_a_long_name_is_no_model(name: str, is_model: bool) -> None:
    """Its end could not be told: the length of that name is a letter, too."""
    heads = [head({"id": f"a{number}", "task": "t", "argsrepr": "()", name: 1}, PROPERTIES) for number in range(3)]
    assert isinstance(check(heads)[-1], ShapedMessage) is is_model


def test_a_name_that_is_there_twice_makes_no_model() -> None:
    fields = tables.dump({"task": "t.add", "id": "a1"})[4:] + tables.dump({"id": "a2", "n": None})[4:]
    raw = content.dump("application/json", "utf-8", len(fields).to_bytes(4, "big") + fields, PROPERTIES)
    assert not isinstance(check([raw] * 3)[-1], ShapedMessage)


def test_lengths_count_and_not_what_looks_like_an_end() -> None:
    plain = head(HEADERS, PROPERTIES)
    odd = [
        plain.replace(b"S\0\0\0\x02a1", b"S\0\0\0\x01a1", 1),
        plain.replace(b"S\0\0\0\x02a1", b"S\0\0\0\x03a1", 1),
        plain.replace(b"\x02a1\x02r1", b"\x01a1\x02r1"),
        plain.replace(b"\x02a1\x02r1", b"\x05a1\x02r1"),
        plain + b"x",
        plain[:-1],
    ]
    assert all(raw != plain for raw in odd)
    check([plain, plain, *odd])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(names, values, max_size=4),
            st.fixed_dictionaries({}, optional={"correlation_id": shorts, "reply_to": shorts, "message_id": shorts}),
            st.permutations(list(HEADERS)),
            st.booleans(),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_anything(drawn: list[Any]) -> None:
    heads = []
    for headers, properties, order, same_order in drawn:
        base = HEADERS if same_order else {name: HEADERS[name] for name in order}
        heads += [head({**base, **headers}, {**PROPERTIES, **properties})] * 2
        heads.append(head({**base, "id": "zz"}, properties))
    check(heads)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=3)), max_size=6), st.integers(0, 300))
def test_damaged(damages: list[tuple[int, bytes]], cut: int) -> None:
    raw = head(HEADERS, PROPERTIES)
    damaged = [raw[:at] + piece + raw[at + len(piece) :] for at, piece in damages]
    check([raw, raw, *damaged, raw[:cut], raw, *damaged])


def test_what_is_always_another_kind_is_not_learnt_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(module.Kind):
        def __init__(self, raw: bytes) -> None:
            made.append(raw)
            super().__init__(raw)

    monkeypatch.setattr(module, "Kind", Counted)
    reader = Reader()
    for number in range(200):
        message = reader.read(head({**HEADERS, f"x{number}": 1}, PROPERTIES), b"")
        assert json.dumps(message.headers)
    assert len(made) <= 9
