"""The shared page: what every child of a worker holds at this moment, readable by the engine without asking.

A child announces a task in one of its slots as soon as it has taken it, notes when its user code starts, and
clears the slot when the outcome is on its way. The engine reads the slots to enforce time limits and to account for
what a dead child held, and writes marks into them. Only the child writes `seq` and `started`, only the
engine writes `mark` and `hold`; both are single aligned words, so neither needs a lock.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MARK_NONE: Final = 0
MARK_SOFT: Final = 1
"""Raise SoftTimeLimitExceeded in it."""
MARK_STOLEN: Final = 2
"""Not to be started: it was given to another child under another number."""
MARK_LEASE: Final = 3
"""The lease is lost: raise LeaseLost in it."""
MARK_TERMINATE: Final = 4
"""Raise TimeLimitExceeded in it, where a process cannot be killed for it."""

_HEAD: Final = struct.Struct("=QQddQ")  # epoch, stage, lease_until, give_up_at, shortcuts
_CHILD: Final = struct.Struct("=QQQQ")  # pid, hold, tasks done, resident KiB
_SLOT: Final = struct.Struct("=QdQ")  # seq, started, mark
_MARK_BITS: Final = 3
_HEAD_SIZE: Final = 64
_CHILD_SIZE: Final = 64

BACKLOG: Final = 64
"""Slots of a child beyond those in which tasks run, for short tasks that came together."""

TOGETHER: Final = 16
"""Most tasks in one datagram; a child takes one only while it could announce so many."""

ENDED: Final = -1.0

STAGE_RUN: Final = 0
STAGE_DRAIN: Final = 1


@dataclass(frozen=True, slots=True)
class Holding:
    """One occupied slot. `started` is on the system's monotonic clock, 0.0 before user code runs and `ENDED` after."""

    child: int
    slot: int
    seq: int
    started: float
    mark: int


class Slots:
    """The page, mapped in the engine, the fork server and every child."""

    def __init__(self, fd: int, children: int, slots: int) -> None:
        self.fd = fd
        self.children = children
        self.slots = slots
        self._row = _CHILD_SIZE + slots * _SLOT.size
        self._size = _HEAD_SIZE + children * self._row
        self._map = mmap.mmap(fd, self._size)

    @classmethod
    def create(cls, fd: int, children: int, slots: int) -> Slots:
        """Give the file `fd` its size, and map it."""
        os.truncate(fd, _HEAD_SIZE + children * (_CHILD_SIZE + slots * _SLOT.size))
        return cls(fd, children, slots)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)

    # the head -----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Raised when the engine has accounted for a dead child: older datagrams are void."""
        return int(struct.unpack_from("=Q", self._map, 0)[0])

    @epoch.setter
    def epoch(self, value: int) -> None:
        struct.pack_into("=Q", self._map, 0, value)

    @property
    def stage(self) -> int:
        return int(struct.unpack_from("=Q", self._map, 8)[0])

    @stage.setter
    def stage(self, value: int) -> None:
        struct.pack_into("=Q", self._map, 8, value)

    @property
    def lease_until(self) -> float:
        """Until when (monotonic seconds) the worker's lease certainly holds."""
        return float(struct.unpack_from("=d", self._map, 16)[0])

    @lease_until.setter
    def lease_until(self, value: float) -> None:
        struct.pack_into("=d", self._map, 16, value)

    @property
    def give_up_at(self) -> float:
        """From when on (monotonic seconds) no child tries again to store an end; 0.0 while none is to give up."""
        return float(struct.unpack_from("=d", self._map, 24)[0])

    @give_up_at.setter
    def give_up_at(self, value: float) -> None:
        struct.pack_into("=d", self._map, 24, value)

    @property
    def shortcuts(self) -> bool:
        """Whether a child may claim what follows from an end by itself: nothing else waits."""
        return bool(struct.unpack_from("=Q", self._map, 32)[0])

    @shortcuts.setter
    def shortcuts(self, value: bool) -> None:
        struct.pack_into("=Q", self._map, 32, 1 if value else 0)

    # one child ----------------------------------------------------------------------------------------------

    def enter(self, child: int, pid: int) -> None:
        """A child begins with clean slots."""
        start = self._base(child)
        self._map[start : start + self._row] = bytes(self._row)
        struct.pack_into("=Q", self._map, start, pid)

    def pid(self, child: int) -> int:
        return int(struct.unpack_from("=Q", self._map, self._base(child))[0])

    def hold(self, child: int, value: bool) -> None:
        """While held, a child takes nothing new: the engine may be about to kill it."""
        struct.pack_into("=Q", self._map, self._base(child) + 8, 1 if value else 0)

    def held(self, child: int) -> bool:
        return bool(struct.unpack_from("=Q", self._map, self._base(child) + 8)[0])

    def note(self, child: int, *, done: int, resident: int) -> None:
        struct.pack_into("=QQ", self._map, self._base(child) + 16, done, resident)

    def noted(self, child: int) -> tuple[int, int]:
        """Tasks done and resident KiB, as the child last noted them."""
        done, resident = struct.unpack_from("=QQ", self._map, self._base(child) + 16)
        return int(done), int(resident)

    # slots --------------------------------------------------------------------------------------------------

    def announce(self, child: int, slot: int, seq: int) -> None:
        # The number last: whoever reads it must not see the start or the mark of the task before.
        at = self._at(child, slot)
        struct.pack_into("=dQ", self._map, at + 8, 0.0, MARK_NONE)
        struct.pack_into("=Q", self._map, at, seq)

    def start(self, child: int, slot: int, seq: int, now: float) -> int:
        """Note the start of `seq`; its mark, read after it, says whether it may go on."""
        at = self._at(child, slot)
        struct.pack_into("=d", self._map, at + 8, now)
        return _mark_of(seq, struct.unpack_from("=Q", self._map, at + 16)[0])

    def end(self, child: int, slot: int) -> None:
        """Its user code has ended; the outcome is not sent yet."""
        struct.pack_into("=d", self._map, self._at(child, slot) + 8, ENDED)

    def clear(self, child: int, slot: int) -> None:
        struct.pack_into("=Q", self._map, self._at(child, slot), 0)

    def mark(self, child: int, slot: int, seq: int, mark: int) -> None:
        """Mark `seq`. If its slot has another number by now the mark means nothing there."""
        struct.pack_into("=Q", self._map, self._at(child, slot) + 16, seq << _MARK_BITS | mark)

    def read(self, child: int, slot: int) -> Holding | None:
        seq, started, mark = _SLOT.unpack_from(self._map, self._at(child, slot))
        return Holding(child, slot, seq, started, _mark_of(seq, mark)) if seq else None

    def holdings(self, child: int) -> Iterator[Holding]:
        """The occupied slots of a child."""
        start = self._base(child) + _CHILD_SIZE
        page = self._map[start : start + self.slots * _SLOT.size]
        for slot, (seq, started, mark) in enumerate(_SLOT.iter_unpack(page)):
            if seq:
                yield Holding(child, slot, seq, started, _mark_of(seq, mark))

    def _base(self, child: int) -> int:
        return _HEAD_SIZE + child * self._row

    def _at(self, child: int, slot: int) -> int:
        return _HEAD_SIZE + child * self._row + _CHILD_SIZE + slot * _SLOT.size


def _mark_of(seq: int, word: int) -> int:
    """The mark in a word, if it was meant for `seq`: a slot may change hands while the engine writes."""
    return word & ((1 << _MARK_BITS) - 1) if word >> _MARK_BITS == seq else MARK_NONE


def anonymous_file(name: str) -> int:
    """A file descriptor of memory without a name, inheritable."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name, 0)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)
    return fd
