"""The engine's children as the engine hears of them, without any."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kernel import Kernel
from kernel.worker import manifest
from kernel.worker.executors import Death
from kernel.worker.options import WorkerOptions
from kernel.worker.processes import frames
from kernel.worker.processes.children import Children
from kernel.worker.slots import ENDED, Holding


class Listener:
    """Notes the deaths."""

    def __init__(self) -> None:
        self.deaths: list[Death] = []

    def on_death(self, death: Death) -> None:
        self.deaths.append(death)

    def unselect(self, readable: Any) -> None:
        raise AssertionError("nothing was selected")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was not expected")


@pytest.fixture
def children() -> Iterator[Children]:
    app = Kernel("children", broker="memory://")
    made = Children()
    facts = manifest.describe(app, WorkerOptions(pool="threads", processes=0))
    facts.processes = 1
    made._lay_out(facts)
    yield made
    made.close()
    app.close()


def test_the_late_word_of_an_end_does_not_meet_the_successor(children: Children) -> None:
    """The fork server tells of an end over another socket than the one on which a new child says that it is ready."""
    listener: Any = Listener()
    children._listener = listener
    (process,) = children._processes
    process.state, process.pid = "ready", 111
    exited: Mapping[str, Any] = {"number": 0, "pid": 111, "status": int(signal.SIGKILL)}
    children._on_exited(process, exited["pid"], exited["status"])
    assert [death.pid for death in listener.deaths] == [111]

    children._understand(frames.pack_note(frames.KIND_READY, 0), listener)
    assert process.state == "ready"
    children._on_exited(process, exited["pid"], exited["status"])
    assert len(listener.deaths) == 1, "the successor lives"
    assert process.state == "ready"


def ready(children: Children, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that its only child is sent."""
    sent: list[int] = []
    monkeypatch.setattr(children, "_signal", lambda process, number: sent.append(number))
    return sent


def running(children: Children, slot: int, seq: int, started: float) -> Holding:
    children._page.announce(0, slot, seq)
    if started == ENDED:
        children._page.end(0, slot)
    else:
        children._page.start(0, slot, seq, started)
    return Holding(0, slot, seq, started, 0)


def test_who_has_ended_beside_it_is_waited_for(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is not on its way yet: killed now, it would run again."""
    sent = ready(children, monkeypatch)
    target = running(children, 0, 7, 5.0)
    running(children, 1, 8, ENDED)
    assert not children.kill(target, time.monotonic() + 60)
    assert not sent
    assert children._page.held(0), "and it takes nothing new meanwhile"
    children._page.clear(0, 1)
    assert children.kill(target, time.monotonic() + 60)
    assert sent == [signal.SIGKILL]


def test_who_has_ended_is_not_killed(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = ready(children, monkeypatch)
    assert children.kill(running(children, 0, 7, ENDED), 0.0)
    assert not sent
    assert not children._page.held(0)
