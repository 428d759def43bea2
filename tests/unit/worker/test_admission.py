"""What becomes of a message is known from its headers, and whatever is wrong with it costs it alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import errors, states
from kernel.extensions import Extensions
from kernel.hooks import hookimpl
from kernel.interfaces.broker import Delivery, Verdict
from kernel.interfaces.outcome import DeadLetter, Delay, Run, Skip
from kernel.message import Message
from kernel.worker.claims.item import Item
from kernel.worker.engine.admission import Admission
from kernel.worker.engine.commands import Revoked
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.intake import Intake
from kernel.worker.manifest import TaskFacts


class Gate:
    """Answers as it is told to."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.received: list[str] = []

    @hookimpl
    def kernel_message_received(self, delivery: Delivery) -> None:
        self.received.append(delivery.message.id)

    @hookimpl
    def kernel_task_admit(self, delivery: Delivery) -> Any:
        return self.answer()


def item(*, starts: int = 0, **headers: Any) -> Item:
    message = Message({"id": "i", "task": "t", **headers}, b"", content_type="application/json")
    return Item(1, Delivery(message, "q", "token", starts=starts))


def admission(*plugins: object, tasks: Any = None) -> tuple[Admission, Revoked]:
    manifest: Any = SimpleNamespace(settings={}, tasks={"t": TaskFacts()} if tasks is None else tasks)
    extensions = Extensions({}, plugins=plugins, builtin={}, autoload=False)
    revoked = Revoked()
    return Admission(Intake(manifest, delivery_limit=3), extensions, revoked), revoked


def refuse() -> None:
    raise RuntimeError("the gate is broken")


def test_what_nobody_objects_to_runs() -> None:
    gate = Gate(lambda: None)
    given = item()
    assert admission(gate)[0].decide(given) is None
    assert (given.id, given.name, gate.received) == ("i", "t", ["i"])
    assert admission(Gate(Run))[0].decide(item()) is None


@pytest.mark.parametrize(
    ("answer", "state", "verdict"),
    [
        (Skip("no", state=states.REVOKED), states.REVOKED, Verdict.ACK),
        (DeadLetter("never"), states.FAILURE, Verdict.DEAD),
    ],
)
def test_a_plugin_may_end_it(answer: Any, state: str, verdict: Verdict) -> None:
    fate = admission(Gate(lambda: answer))[0].decide(item())
    assert fate is not None
    assert fate.obituary is not None
    assert (fate.obituary.state, fate.obituary.verdict) == (state, verdict)


def test_a_plugin_may_put_it_off() -> None:
    assert admission(Gate(lambda: Delay(7.0)))[0].decide(item()) == Fate(delay=7.0)


def test_a_plugin_that_fails_costs_the_message_and_is_named() -> None:
    fate = admission(Gate(refuse))[0].decide(item())
    assert fate is not None
    assert fate.obituary is not None
    assert fate.obituary.verdict is Verdict.DEAD
    assert "the gate is broken" in fate.obituary.text
    assert "Gate" in fate.obituary.text or "gate" in fate.obituary.text.partition("broken")[2]


def test_what_was_revoked_ends_before_any_plugin_is_asked() -> None:
    made, revoked = admission(Gate(refuse))
    revoked.add("i")
    fate = made.decide(item())
    assert fate is not None
    assert fate.obituary is not None
    assert fate.obituary.state == states.REVOKED


def test_what_was_started_too_often_ends() -> None:
    fate = admission()[0].decide(item(starts=3))
    assert fate is not None
    assert fate.obituary is not None
    assert "started 3 times" in fate.obituary.text


def test_a_message_that_is_no_task_is_kept() -> None:
    fate = admission()[0].decide(item(task=""))
    assert fate is not None
    assert (fate.obituary, fate.verdict) == (None, Verdict.DEAD)


class Broken(dict[str, TaskFacts]):
    def get(self, *_: Any) -> Any:
        raise ZeroDivisionError("a defect of ours")


def test_a_defect_costs_the_message_and_not_the_worker() -> None:
    fate = admission(tasks=Broken())[0].decide(item())
    assert fate is not None
    assert fate.verdict is Verdict.DEAD
    assert "a defect of ours" in fate.reason


def test_the_servers_clock_counts_where_there_is_one() -> None:
    """A worker that is an hour behind does not send away what its broker handed out as due."""
    manifest: Any = SimpleNamespace(settings={}, tasks={"t": TaskFacts()})
    given = item(eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    own, servers = (Intake(manifest, delivery_limit=3, judges_time=judges) for judges in (True, False))
    assert 3590 < own.early(given) < 3601
    assert servers.early(given) == 0.0
    with pytest.raises(errors.InvalidTaskError, match="eta"):
        servers.early(item(eta="tomorrow"))
