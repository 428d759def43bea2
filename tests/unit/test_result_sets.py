"""Sets of results in which one stands in several places."""

from __future__ import annotations

from kernel import GroupResult, Kernel, ResultSet
from kernel.interfaces.backend import Record


def test_a_result_in_two_groups_counts_once_in_each() -> None:
    with Kernel("tests", broker="memory://", backend="memory://") as app:
        shared, first, second = (app.AsyncResult(name) for name in ("shared", "first", "second"))
        groups = [GroupResult("1", [shared, first]), GroupResult("2", [shared, second])]
        coming = ResultSet(groups, app).iterate(timeout=30)
        app.backend.store([Record(id=name, state="SUCCESS", result=b"1") for name in ("shared", "second")])
        # The first group still waits for another.
        assert next(coming)[0] == "2"
        app.backend.store([Record(id="first", state="SUCCESS", result=b"2")])
        assert [name for name, _ in coming] == ["1"]
        assert ResultSet(groups, app).get(timeout=30) == [[1, 2], [1, 1]]


def test_two_results_of_one_call_both_have_its_value() -> None:
    with Kernel("tests", broker="memory://", backend="memory://") as app:
        groups = [GroupResult("1", [app.AsyncResult("same")]), GroupResult("2", [app.AsyncResult("same")])]
        app.backend.store([Record(id="same", state="SUCCESS", result=b"5")])
        assert ResultSet(groups, app).get(timeout=30) == [[5], [5]]
