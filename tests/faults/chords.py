"""What tests of chords under faults have in common on every server: their tasks, and the judge of one chord."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from kernel import chord, errors, states
from kernel.testing.workers import Project, WorkerProcess, wait_for
from tests.faults.table import Tally

TASKS: Final = """
import itertools


@app.task
def member(key, seconds=0.0):
    '''Its value is another one each time it runs.'''
    note("BEGIN", key)
    time.sleep(seconds)
    note("MEMBER", key)
    return [key, time.time_ns(), os.getpid()]


@app.task(bind=True)
def adds(self, name, number, more):
    '''A member that adds another one, `more` numbers on.'''
    self.add_to_chord(member.s(f"{name}.{number + more}"))
    return member(f"{name}.{number}")


@app.task
def body(values, key):
    note("BODY", key)
    return values


@app.task(bind=True)
def step(self, values, key):
    note("STEP", key)
    return key


@app.task
def broken(key):
    raise ValueError(key)


@app.task
def held(key):
    note("BEGIN", key)
    time.sleep(120.0)


@app.task
def dies(key):
    note("BEGIN", key)
    os.kill(os.getpid(), 9)


@app.task
def errback(task_id):
    note("ERRBACK", task_id)


@app.task
def plus(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)
"""

POINTS: Final = ("result.stored=kill", "chord.joined=kill", "successors.published=kill", "settle.before=kill")
"""Between the store and the settlement of what completes a chord."""

JOINED: Final = "settle.joined=kill"
"""The same in the engine, where a part is brought with the settlement: what completes a chord is settled twice."""


def members(project: Project, name: str, count: int, seconds: float = 0.0) -> list[Any]:
    return [project.task("member").s(f"{name}.{n}", seconds) for n in range(count)]


def start(project: Project, name: str, count: int, seconds: float = 0.0) -> Any:
    return chord(members(project, name, count, seconds))(project.task("body").s(name))


def judge_chord(
    project: Project, name: str, result: Any, count: int, tally: Tally, *, within: float, kept: bool = True
) -> None:
    """One value for each member, in order, of the run whose record stands (where records are `kept`, and not sent to
    whoever called); and the body once."""
    values = result.get(timeout=within)
    assert [value[0] for value in values] == [f"{name}.{n}" for n in range(count)]
    if kept:
        found = [member.get(timeout=within) for member in result.parent.results]
        assert values[: len(found)] == found, "not of the runs that counted"
    settle(project, within)
    bodies = project.counts("BODY")[name]
    tally.runs += 1
    tally.doubled += bodies - 1
    assert bodies == 1


def settle(project: Project, within: float) -> None:
    """Until the broker holds nothing."""
    stats = project.app.broker.stats
    wait_for(
        lambda: not any(each.ready or each.claimed or each.delayed for each in stats()), within, lambda: str(stats())
    )


# --- the cases ----------------------------------------------------------------------------------------------------


def frozen_members(project: Project, tally: Tally, rounds: int, *, kept: bool = True) -> None:
    """C1: the owner of two members is frozen for longer than its lease, and wakes when others have run them."""
    for number in range(rounds):
        name = f"c{number}"
        slow = [project.task("member").s(f"{name}.{n}", 2.0) for n in (8, 9)]
        result = chord([*members(project, name, 8), *slow])(project.task("body").s(name))
        first = WorkerProcess(project, "-c", "2").wait_ready()
        try:
            wait_for(lambda name=name: all(project.counts("BEGIN")[f"{name}.{n}"] for n in (8, 9)), 20)  # type: ignore[misc]
            if kept:
                # The others are settled: a process that is frozen in a transaction holds SQLite's lock.
                wait_for(lambda: sum(each.claimed + each.ready for each in project.app.broker.stats()) == 2, 20)
            first.signal_all(signal.SIGSTOP)
            with WorkerProcess(project, "-c", "2"):
                judge_chord(project, name, result, 10, tally, within=40, kept=kept)
                first.signal_all(signal.SIGCONT)
                wait_for(lambda w=first: "lease" in w.log, 20, lambda w=first: w.log)  # type: ignore[misc]
                wait_for(lambda name=name: project.counts("BEGIN")[f"{name}.9"] >= 2, 20)  # type: ignore[misc]
                settle(project, 20)
        finally:
            first.signal_all(signal.SIGCONT)
            first.stop()
        assert project.counts("BODY")[name] == 1


def start_growing(project: Project, name: str, count: int) -> Any:
    """Half of the members are added by the others."""
    half = count // 2
    return chord(project.task("adds").s(name, n, half) for n in range(half))(project.task("body").s(name))


def killed_at(
    project: Project,
    tally: Tally,
    point: str,
    rounds: int,
    *,
    kept: bool = True,
    begin: Callable[[Project, str, int], Any] = start,
) -> None:
    """C2: the process that completes a chord is killed at `point`, and then the whole worker."""
    for number in range(rounds):
        name = f"k{number}"
        result = begin(project, name, 6)
        worker = WorkerProcess(project, "-c", "2", environment={"KERNEL_FAILPOINTS": point})
        try:
            wait_for(lambda w=worker: w.process.poll() is not None or "was ended by SIGKILL" in w.log, 30)  # type: ignore[misc]
        finally:
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
        with WorkerProcess(project, "-c", "2"):
            judge_chord(project, name, result, 6, tally, within=40, kept=kept)


def header_that_fails(project: Project, tally: Tally) -> None:
    """C4: whatever becomes of a member, whoever waits is told, errbacks are called once, and the body is not."""
    add = project.app.signature
    reasons = {
        "fails": project.task("broken").s("x"),
        "is revoked": project.task("held").s("revoked"),
        "expires": project.task("member").s("x").set(expires=-10),
        "is lost": project.task("dies").s("lost"),
        "is unknown": add("proj.nowhere", ("x",)),
        "is nested": chord([project.task("broken").s("x"), *members(project, "n", 2)], project.task("body").s("inner")),
    }
    results = {}
    for reason, bad in reasons.items():
        last = project.task("body").s("never").on_error(project.task("errback").s()) | project.task("step").s("never")
        results[reason] = chord([*members(project, "m", 3), bad], last).delay()
    with WorkerProcess(project, "-c", "2"):
        wait_for(lambda: project.counts("BEGIN")["revoked"], 30)
        (held,) = [result.id for result in results["is revoked"].parent.parent.results[3:]]
        project.app.control.revoke(held, terminate=True, signal="SIGKILL")
        for reason, result in results.items():
            error = result.get(timeout=40, propagate=False)
            assert isinstance(error, errors.ChordError), (reason, error)
            assert result.parent.state == states.FAILURE, reason
            tally.runs += 1
        wait_for(lambda: sum(project.counts("ERRBACK").values()) >= len(results), 20)
        settle(project, 40)
    expected = Counter(result.parent.id for result in results.values())
    tally.doubled += sum(project.counts("ERRBACK").values()) - len(results)
    assert project.counts("ERRBACK") == expected
    assert not project.counts("BODY")
    assert not project.counts("STEP")


def nested_under_kills(project: Project, tally: Tally, seeds: int) -> None:
    """C5: chords in chains in chords, while children are killed one after the other."""
    plus, total = project.task("plus"), project.task("total")

    def level(depth: int) -> Any:
        if not depth:
            return plus.s(1)
        parts = [level(depth - 1) for _ in range(2)]
        return chord([part | plus.s(0) for part in parts], total.s()) | plus.s(1)

    def value(depth: int, x: int) -> int:
        return x + 1 if not depth else 2 * value(depth - 1, x) + 1

    for seed in range(seeds):
        with WorkerProcess(project, "-c", "2") as worker:
            results = [(plus.s(n, 0) | level(3)).delay() for n in range(4)]
            for _ in range(4):
                time.sleep(0.05 + 0.02 * (seed % 5))
                for pid in worker.children()[:1]:
                    os.kill(pid, signal.SIGKILL)
            found = [result.get(timeout=60) for result in results]
            settle(project, 30)
        tally.runs += 1
        tally.lost += sum(1 for n, each in enumerate(found) if each != value(3, n))
        assert found == [value(3, n) for n in range(4)]


def redelivered_links(project: Project, tally: Tally, steps: list[int], *, at: str, kept: bool = True) -> None:
    """C6: one step of a chain is settled, and a kill `at` this moment loses the answer; the tail runs once. Where no
    records are `kept` nobody can know that it ran: then at most once more."""
    step = project.task("step")
    for lost in steps:
        name = f"l{lost}"
        made = step.s(None, f"{name}.0")
        for number in range(1, 10):
            made |= step.s(f"{name}.{number}")
        result = made.delay()
        point = {"KERNEL_FAILPOINTS": f"{at}=kill@{lost + 1}"}
        worker = WorkerProcess(project, "-c", "1", environment=point)
        try:
            wait_for(lambda w=worker: w.process.poll() is not None or "was ended by SIGKILL" in w.log, 40)  # type: ignore[misc]
        finally:
            worker.signal_all(signal.SIGKILL)
            worker.process.wait(10)
        # One after the other: of two copies of a link that run at the same moment neither finds the other's record.
        with WorkerProcess(project, "-c", "1"):
            assert result.get(timeout=40) == f"{name}.9"
            settle(project, 30)
        counts = project.counts("STEP")
        tally.runs += 1
        if not kept:
            assert {counts[f"{name}.{number}"] for number in range(10)} <= {1, 2}
            continue
        tally.doubled += counts[f"{name}.9"] - 1
        assert counts[f"{name}.9"] == 1
        # What was under way when the worker died may have run twice, and nothing else.
        assert sum(counts[f"{name}.{number}"] - 1 for number in range(10)) <= 2
