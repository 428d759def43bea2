"""Chords on Redis: cases C1 to C6."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.testing.proxy import Proxy
from kernel.testing.servers import RedisProcess
from kernel.testing.workers import Project, wait_for
from tests.faults import chords
from tests.faults.fleet import Rounds, fleet_project, through
from tests.faults.redis_fleet import redis_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(redis_of_file: RedisProcess) -> RedisProcess:
    return redis_of_file


@pytest.fixture
def project(tmp_path: Path, server: RedisProcess) -> Iterator[Project]:
    """Each with keys of its own."""
    prefix = f"{tmp_path.name}:"
    with redis_project(
        tmp_path,
        server,
        tasks=chords.TASKS,
        worker_lease=1.5,
        task_delivery_limit=50,
        broker_transport_options={"global_keyprefix": prefix},
        result_backend_transport_options={"global_keyprefix": prefix},
    ) as project:
        yield project


@pytest.mark.case("C1")
def test_members_that_run_again_with_other_values(project: Project, tally: Tally, rounds: Rounds) -> None:
    chords.frozen_members(project, tally, rounds(1, 10))


@pytest.mark.case("C2")
@pytest.mark.parametrize("point", chords.POINTS)
def test_killed_between_the_last_part_and_the_body(project: Project, tally: Tally, rounds: Rounds, point: str) -> None:
    chords.killed_at(project, tally, point, rounds(1, 50))


@pytest.mark.case("C3")
def test_a_body_that_cannot_be_published(tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds) -> None:
    """The broker goes away for the workers before the last part is brought, and the results are elsewhere."""
    seconds = rounds(3, 10)
    with (
        Proxy("127.0.0.1", server.port) as proxy,
        fleet_project(
            tmp_path,
            server.url,
            backend=f"db+sqlite:///{tmp_path}/results.db",
            tasks=chords.TASKS,
            broker_transport_options={"global_keyprefix": f"{tmp_path.name}:"},
        ) as project,
    ):
        result = chords.start(project, "x", 4, 1.0)
        worker = through(project, server.url, proxy, "-c", "4").wait_ready()
        try:
            wait_for(lambda: sum(project.counts("BEGIN").values()) == 4, 20)
            proxy.refuse()
            proxy.cut()
            wait_for(lambda: sum(project.counts("MEMBER").values()) == 4, 30, lambda: worker.log)
            with pytest.raises(TimeoutError):
                result.get(timeout=seconds)
            assert not project.counts("BODY")
            proxy.heal()
            chords.judge_chord(project, "x", result, 4, tally, within=60)
        finally:
            worker.stop()


@pytest.mark.case("C4")
def test_a_header_that_fails(tmp_path: Path, server: RedisProcess, tally: Tally) -> None:
    prefix = f"{tmp_path.name}:"
    with redis_project(
        tmp_path,
        server,
        tasks=chords.TASKS,
        task_delivery_limit=2,
        broker_transport_options={"global_keyprefix": prefix},
        result_backend_transport_options={"global_keyprefix": prefix},
    ) as project:
        chords.header_that_fails(project, tally)


@pytest.mark.case("C5")
def test_nested_chords_while_children_die(project: Project, tally: Tally, rounds: Rounds) -> None:
    chords.nested_under_kills(project, tally, rounds(1, 20))


@pytest.mark.thorough
@pytest.mark.case("C5", note="F14")
def test_nested_chords_while_lines_are_clogged(
    tmp_path: Path, server: RedisProcess, tally: Tally, rounds: Rounds
) -> None:
    prefix = f"{tmp_path.name}:"
    with (
        Proxy("127.0.0.1", server.port) as proxy,
        redis_project(
            tmp_path,
            server,
            tasks=chords.TASKS,
            broker_transport_options={"global_keyprefix": prefix},
            result_backend_transport_options={"global_keyprefix": prefix},
        ) as project,
    ):
        worker = through(project, server.url, proxy, "-c", "2").wait_ready()
        try:
            dice = random.Random(5)
            for _ in range(rounds(1, 20)):
                result = chords.start(project, f"n{tally.runs}", 10, 0.01)
                time.sleep(dice.uniform(0.0, 0.1))
                proxy.stall()
                time.sleep(dice.uniform(0.1, 0.8))
                proxy.heal()
                chords.judge_chord(project, f"n{tally.runs}", result, 10, tally, within=60)
        finally:
            worker.stop()


@pytest.mark.case("C6")
def test_links_that_come_again(project: Project, tally: Tally, rounds: Rounds) -> None:
    """The child carries the ends of links out by itself: it dies when the engine has not heard of it."""
    chords.redelivered_links(project, tally, [*range(10)][: rounds(1, 10)], at="end.carried_out")
