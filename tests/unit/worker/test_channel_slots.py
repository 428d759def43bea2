"""Datagrams of every size, and the page that engine and children share."""

from __future__ import annotations

import os

import pytest

from kernel import errors
from kernel.worker import slots
from kernel.worker.processes.channel import INLINE_LIMIT, Channel
from kernel.worker.slots import Slots, anonymous_file


@pytest.mark.parametrize("kind", ["seqpacket", "dgram"])
@pytest.mark.parametrize("size", [1, 1000, INLINE_LIMIT, INLINE_LIMIT + 1, 5_000_000])
def test_a_datagram_arrives_whole(kind: str, size: int) -> None:
    writer, reader = Channel.pair(kind)
    frame = os.urandom(size)
    assert writer.send(frame, block=True)
    assert reader.receive(block=True) == frame
    assert reader.receive(block=False) is None
    writer.close()
    reader.close()


def test_the_reader_sees_the_end() -> None:
    writer, reader = Channel.pair("seqpacket")
    writer.send(b"last", block=True)
    writer.close()
    assert reader.receive(block=True) == b"last"
    assert reader.receive(block=True) == b""
    reader.close()


def test_a_full_channel_says_so_and_loses_nothing() -> None:
    writer, reader = Channel.pair()
    sent = 0
    while sent < 1_000_000 and writer.send(b"%d" % sent, block=False):
        sent += 1
    assert 100 < sent < 1_000_000
    assert [reader.receive(block=False) for _ in range(sent)] == [b"%d" % number for number in range(sent)]
    writer.close()
    reader.close()


def test_an_unknown_channel_is_named() -> None:
    with pytest.raises(errors.ImproperlyConfigured, match="carrier"):
        Channel.pair("carrier pigeon")


@pytest.fixture
def page() -> Slots:
    return Slots.create(anonymous_file("test"), 3, 4)


def test_a_slot_follows_a_task(page: Slots) -> None:
    page.enter(1, 4711)
    page.announce(1, 2, 99)
    (held,) = page.holdings(1)
    assert (held.seq, held.slot, held.started) == (99, 2, 0.0)
    assert page.start(1, 2, 99, 12.5) == slots.MARK_NONE
    assert page.read(1, 2) == slots.Holding(1, 2, 99, 12.5, slots.MARK_NONE)
    page.clear(1, 2)
    assert list(page.holdings(1)) == []
    assert page.pid(1) == 4711


def test_a_mark_is_seen_at_the_start(page: Slots) -> None:
    page.announce(0, 0, 7)
    page.mark(0, 0, 7, slots.MARK_STOLEN)
    assert page.start(0, 0, 7, 1.0) == slots.MARK_STOLEN


def test_a_mark_that_comes_late_does_not_hit_the_next_task(page: Slots) -> None:
    """The engine looks at a slot and marks it; in between the slot may have changed hands."""
    page.announce(0, 0, 7)
    page.start(0, 0, 7, 1.0)
    page.clear(0, 0)
    page.announce(0, 0, 8)
    page.mark(0, 0, 7, slots.MARK_SOFT)
    (held,) = page.holdings(0)
    assert held == slots.Holding(0, 0, 8, 0.0, slots.MARK_NONE)
    assert page.start(0, 0, 8, 2.0) == slots.MARK_NONE


def test_the_neighbours_rows_stay_as_they_are(page: Slots) -> None:
    page.announce(0, 3, 1)
    page.announce(2, 0, 2)
    page.enter(1, 5)
    page.hold(1, True)
    assert [held.seq for child in range(3) for held in page.holdings(child)] == [1, 2]
    assert [page.held(child) for child in range(3)] == [False, True, False]


def test_another_mapping_sees_the_same(page: Slots) -> None:
    other = Slots(page.fd, 3, 4)
    page.epoch = 9
    page.lease_until = 2.5
    page.note(2, done=3, resident=1024)
    assert (other.epoch, other.lease_until, other.noted(2)) == (9, 2.5, (3, 1024))
