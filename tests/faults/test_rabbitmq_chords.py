"""Chords on RabbitMQ, whose parts lie in a queue of each chord: cases C1 to C6."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.testing.proxy import Proxy
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import Project, wait_for
from tests.faults import chords
from tests.faults.fleet import Rounds, fleet_project, through
from tests.faults.rabbitmq_fleet import rabbit_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# A connection that nobody hears is given up in time for a test.
FAST_BEATS = {"heartbeat": 1.0}


@pytest.fixture
def project(tmp_path: Path, kernel_rabbitmq_url: str) -> Iterator[Project]:
    with rabbit_project(
        tmp_path,
        kernel_rabbitmq_url,
        results=True,
        tasks=chords.TASKS,
        task_delivery_limit=50,
        broker_transport_options=FAST_BEATS,
    ) as project:
        yield project


@pytest.mark.thorough
@pytest.mark.case("C1")
def test_members_that_run_again_with_other_values(project: Project, tally: Tally, rounds: Rounds) -> None:
    chords.frozen_members(project, tally, rounds(1, 10), kept=False)


@pytest.mark.case("C2")
@pytest.mark.parametrize("point", chords.POINTS)
def test_killed_between_the_last_part_and_the_body(project: Project, tally: Tally, rounds: Rounds, point: str) -> None:
    chords.killed_at(project, tally, point, rounds(1, 50), kept=False)


@pytest.mark.thorough
@pytest.mark.case("C2", note="chords that grow, too")
@pytest.mark.parametrize("point", ["task.decided=kill", *chords.POINTS])
def test_killed_while_the_chord_grows(project: Project, tally: Tally, rounds: Rounds, point: str) -> None:
    chords.killed_at(project, tally, point, rounds(1, 10), kept=False, begin=chords.start_growing)


@pytest.mark.thorough
@pytest.mark.case("C3")
def test_a_body_that_cannot_be_published(
    tmp_path: Path, kernel_rabbitmq: RabbitProcess, kernel_rabbitmq_url: str, tally: Tally, rounds: Rounds
) -> None:
    """No connection of a worker's is taken from before its members end, those that have its tasks and its lease live
    on: neither parts nor body can be brought."""
    seconds = rounds(3, 10)
    with (
        Proxy("127.0.0.1", kernel_rabbitmq.port) as proxy,
        fleet_project(tmp_path, kernel_rabbitmq_url, backend="rpc://", tasks=chords.TASKS) as project,
    ):
        result = chords.start(project, "x", 4, 1.0)
        worker = through(project, kernel_rabbitmq_url, proxy, "-c", "4").wait_ready()
        try:
            wait_for(lambda: sum(project.counts("BEGIN").values()) == 4, 20)
            proxy.refuse()
            wait_for(lambda: sum(project.counts("MEMBER").values()) == 4, 30, lambda: worker.log)
            with pytest.raises(TimeoutError):
                result.get(timeout=seconds)
            assert not project.counts("BODY")
            proxy.heal()
            chords.judge_chord(project, "x", result, 4, tally, within=60, kept=False)
        finally:
            worker.stop()


@pytest.mark.case("C4")
def test_a_header_that_fails(tmp_path: Path, kernel_rabbitmq_url: str, tally: Tally) -> None:
    with rabbit_project(
        tmp_path, kernel_rabbitmq_url, results=True, tasks=chords.TASKS, task_delivery_limit=2
    ) as project:
        chords.header_that_fails(project, tally)


@pytest.mark.thorough
@pytest.mark.case("C5")
def test_nested_chords_while_children_die(project: Project, tally: Tally, rounds: Rounds) -> None:
    chords.nested_under_kills(project, tally, rounds(1, 20))


@pytest.mark.thorough
@pytest.mark.case("C5", note="F14")
def test_nested_chords_while_lines_are_clogged(
    tmp_path: Path, kernel_rabbitmq: RabbitProcess, kernel_rabbitmq_url: str, tally: Tally, rounds: Rounds
) -> None:
    with (
        Proxy("127.0.0.1", kernel_rabbitmq.port) as proxy,
        rabbit_project(
            tmp_path,
            kernel_rabbitmq_url,
            results=True,
            tasks=chords.TASKS,
            task_delivery_limit=50,
            broker_transport_options=FAST_BEATS,
        ) as project,
    ):
        worker = through(project, kernel_rabbitmq_url, proxy, "-c", "2").wait_ready()
        try:
            dice = random.Random(5)
            for _ in range(rounds(1, 20)):
                result = chords.start(project, f"n{tally.runs}", 10, 0.01)
                time.sleep(dice.uniform(0.0, 0.1))
                proxy.stall()
                time.sleep(dice.uniform(0.1, 4.0))
                proxy.heal()
                chords.judge_chord(project, f"n{tally.runs}", result, 10, tally, within=60, kept=False)
        finally:
            worker.stop()


@pytest.mark.thorough
@pytest.mark.case("C6")
def test_links_that_come_again(tmp_path: Path, kernel_rabbitmq_url: str, tally: Tally, rounds: Rounds) -> None:
    """With results where they can be looked for."""
    results = f"db+sqlite:///{tmp_path}/results.db"
    with fleet_project(
        tmp_path, kernel_rabbitmq_url, backend=results, tasks=chords.TASKS, task_delivery_limit=50
    ) as project:
        chords.redelivered_links(project, tally, [*range(10)][: rounds(1, 10)], at="settle.sent")


@pytest.mark.thorough
@pytest.mark.case("C6", note="at least once over rpc: there is no record to look for")
def test_links_that_come_again_without_records(project: Project, tally: Tally, rounds: Rounds) -> None:
    chords.redelivered_links(project, tally, [*range(10)][: rounds(1, 10)], at="settle.sent", kept=False)
