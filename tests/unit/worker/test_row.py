"""What a child has carried out is told in its order, and not later than it matters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kernel.interfaces.broker import Verdict
from kernel.message import Message
from kernel.worker.assignment import Ending, Step
from kernel.worker.processes import row as rows
from kernel.worker.processes.row import Row


class Told:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, lasts: float = 60.0) -> None:
        self.numbers: list[list[int]] = []
        self.asked = 0
        monkeypatch.setattr(rows, "_OLDEST", lasts)
        self.row = Row(self.tell, soon=self.soon)

    def tell(self, steps: Sequence[Step]) -> None:
        self.numbers.append([step.ending.seq for step in steps])

    def soon(self) -> None:
        self.asked += 1

    def add(self, *numbers: int, at_once: bool = False) -> None:
        for number in numbers:
            following = Message({"id": "i", "task": "t"}, b"", content_type="application/json")
            self.row.add(Step(Ending(number, Verdict.ACK), following), at_once=at_once)


def test_what_need_not_be_known_is_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.add(1, 2, 3)
    assert told.numbers == []
    told.row.flush()
    assert told.numbers == [[1, 2, 3]]


def test_another_thread_is_asked_to_look_once_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.add(1, 2)
    assert told.asked == 1
    told.row.flush()
    told.add(3)
    assert told.asked == 2


def test_what_must_be_known_takes_along_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.add(1, 2)
    told.add(3, at_once=True)
    assert told.numbers == [[1, 2, 3]]


def test_nothing_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, lasts=0.0)
    told.add(1, 2)
    assert told.numbers == [[1], [2]]


def test_not_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.add(*range(100))
    told.row.flush()
    assert [number for batch in told.numbers for number in batch] == [*range(100)]
    assert max(map(len, told.numbers)) <= 64


def test_nothing_is_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.add(1)
    told.row.flush()
    told.row.flush()
    assert told.numbers == [[1]]
