"""The table of canvases, on every broker."""

from __future__ import annotations

import pytest

from tests.canvas.case import Case, check, observe
from tests.canvas.conftest import Place
from tests.canvas.table import CASES

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_row_is_there_once() -> None:
    names = [case.name for case in CASES]
    assert len({*names}) == len(names) > 70


@each_case
def test_on_memory(memory: Place, case: Case) -> None:
    check(case, observe(case, memory.shop()))


@each_case
def test_in_another_process(worker_apart: Place, case: Case) -> None:
    check(case, observe(case, worker_apart.shop()))
