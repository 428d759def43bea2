"""Chords on RabbitMQ, whose parts lie in a queue of each chord: cases C2 and C4."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import chords
from tests.faults.fleet import Rounds
from tests.faults.rabbitmq_fleet import rabbit_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.mark.case("C2")
@pytest.mark.parametrize("point", chords.POINTS)
def test_killed_between_the_last_part_and_the_body(
    tmp_path: Path, kernel_rabbitmq_url: str, tally: Tally, rounds: Rounds, point: str
) -> None:
    with rabbit_project(
        tmp_path, kernel_rabbitmq_url, results=True, tasks=chords.TASKS, task_delivery_limit=50
    ) as project:
        chords.killed_at(project, tally, point, rounds(1, 50), kept=False)


@pytest.mark.case("C4")
def test_a_header_that_fails(tmp_path: Path, kernel_rabbitmq_url: str, tally: Tally) -> None:
    with rabbit_project(
        tmp_path, kernel_rabbitmq_url, results=True, tasks=chords.TASKS, task_delivery_limit=2
    ) as project:
        chords.header_that_fails(project, tally)
