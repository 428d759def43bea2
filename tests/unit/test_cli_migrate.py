"""`kernel migrate release`, with a broker that only remembers what it was told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from kernel.cli import exits, main
from kernel.interfaces.broker import DeadLetter, QueueStats, Released
from kernel.message import Message

if TYPE_CHECKING:
    from kernel.app import Kernel


class Plain:
    """A broker with a queue that somebody takes from, and one that nobody does. It has nothing to release."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        numbers = {"delayed": 3, "claimed": 2, "dead": 1}
        return [QueueStats(name, 1, consumers=name == "busy", **numbers) for name in queues or ("busy", "free")]

    def dead_letters(self, queue: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        message = Message({"id": "a"}, b"", content_type="x")
        return [DeadLetter("a", "proj.add", queue or "", "unknown", 0.0, 0, message)]

    def retry_dead(self, ids: Iterable[str]) -> int:
        self.told.append(("retry", list(ids)))
        return 1


class Hiding(Plain):
    def release(self, queue: str) -> Released:
        self.told.append(("release", queue))
        return Released(queue, owners=1) if queue == "busy" else Released(queue, delayed=3, claimed=2)


class App:
    """As much of an app as these commands use."""

    def __init__(self, broker: Plain) -> None:
        self.broker = broker

    def close(self) -> None:
        pass


def run(broker: Plain, *arguments: str) -> int:
    return main(["migrate", "release", *arguments], app=cast("Kernel", App(broker)))


def test_all_queues_are_released_save_those_that_are_taken_from(capsys: pytest.CaptureFixture[str]) -> None:
    broker = Hiding()
    assert run(broker) == exits.FAILED
    busy, free = capsys.readouterr().out.splitlines()
    assert busy.startswith("busy: left as it is, since 1 worker takes from it")
    assert free == "free: 3 delayed, 2 claimed, 0 dead put back"
    assert broker.told == [("release", "busy"), ("release", "free")]


def test_dead_letters_come_along_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    broker = Hiding()
    assert run(broker, "free", "--dead", "--json") == exits.OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["queues"] == [{"queue": "free", "delayed": 3, "claimed": 2, "owners": 0, "dead": 1}]
    assert broker.told == [("release", "free"), ("retry", ["a"])]


def test_those_of_a_queue_that_is_taken_from_stay(capsys: pytest.CaptureFixture[str]) -> None:
    broker = Hiding()
    assert run(broker, "busy", "--dead") == exits.FAILED
    assert broker.told == [("release", "busy")]


def test_a_dry_run_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    broker = Hiding()
    assert run(broker, "free", "--dead", "--dry-run") == exits.OK
    assert capsys.readouterr().out == "free: 3 delayed, 2 claimed, 1 dead would be put back\n"
    assert broker.told == []


def test_a_broker_that_hides_nothing_has_nothing_to_release(capsys: pytest.CaptureFixture[str]) -> None:
    broker = Plain()
    assert run(broker) == exits.OK
    assert capsys.readouterr().out.splitlines()[0] == "busy: 0 delayed, 0 claimed, 0 dead put back"
