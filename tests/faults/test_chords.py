"""Chords on SQLite, where records, parts and messages are in one file: cases C1, C2, C4, C5 and C6."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.testing.workers import Project, project_in
from tests.faults import chords
from tests.faults.fleet import Rounds
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path / "p", tasks=chords.TASKS, worker_lease=1.5, task_delivery_limit=2) as project:
        yield project


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Project]:
    """For tests that kill more than a task is given by default."""
    with project_in(tmp_path / "p", tasks=chords.TASKS, worker_lease=1.5, task_delivery_limit=50) as project:
        yield project


@pytest.mark.case("C1")
def test_members_that_run_again_with_other_values(lasting: Project, tally: Tally, rounds: Rounds) -> None:
    chords.frozen_members(lasting, tally, rounds(1, 10))


@pytest.mark.case("C2")
@pytest.mark.parametrize("point", [*chords.POINTS, chords.JOINED])
def test_killed_between_the_last_part_and_the_body(lasting: Project, tally: Tally, rounds: Rounds, point: str) -> None:
    chords.killed_at(lasting, tally, point, rounds(1, 50))


@pytest.mark.case("C4")
def test_a_header_that_fails(project: Project, tally: Tally) -> None:
    chords.header_that_fails(project, tally)


@pytest.mark.case("C5")
def test_nested_chords_while_children_die(lasting: Project, tally: Tally, rounds: Rounds) -> None:
    chords.nested_under_kills(lasting, tally, rounds(1, 20))


@pytest.mark.case("C6")
def test_links_that_come_again(lasting: Project, tally: Tally, rounds: Rounds) -> None:
    chords.redelivered_links(lasting, tally, [*range(10)][: rounds(1, 10)], at="settle.sent")
