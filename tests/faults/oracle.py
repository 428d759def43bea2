"""What every test of a fault ends with: nothing lost, nothing doubled beyond the promise, and progress in time."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kernel.testing.workers import Project
from tests.faults.table import Tally


def judge(
    project: Project,
    keys: Iterable[str],
    tally: Tally,
    *,
    within: float,
    again: int = 0,
    word: str = "COMMIT",
    settled: bool = True,
) -> None:
    """Wait until every key stands in the ledger with `word`, and then until the broker holds nothing.

    `within` seconds are the promise; what comes up to twice as late is told as late. `again` is how many entries beyond
    one for each key are within the promise: at least once means one for each process that was killed. What never
    came is *stuck* if the broker still has it, and *lost* if not. Adds to `tally`, and fails unless all is well.
    Without `settled` the broker may hold something at the end.
    """
    wanted = set(keys)
    begun = time.monotonic()
    missing = _missing(project, wanted, word, begun + within)
    late = len(missing)
    if missing:
        missing = _missing(project, missing, word, begun + 3 * within)
        late -= len(missing)
    stats = project.app.broker.stats()
    kept = sum(each.ready + each.claimed + each.delayed for each in stats)
    counts = project.counts(word)
    doubled = max(0, sum(counts[key] - 1 for key in wanted if counts[key]) - again)
    stuck = min(len(missing), kept)
    found = Tally(lost=len(missing) - stuck, doubled=doubled, late=late, stuck=stuck)
    tally.add(found)
    assert found == Tally(), f"{found} of {len(wanted)}; never came: {sorted(missing)[:10]}; queues: {stats}"
    # Settled too, which is what keeps it from coming again.
    if settled and not _settled(project, begun + 3 * within):
        raise AssertionError(f"all ran, and the broker still holds {project.app.broker.stats()}")


def may_run_again(project: Project, keys: Iterable[str], word: str = "COMMIT") -> int:
    """How many of `keys`, which is all that was ever sent, have run and are in the broker all the same: their ends are
    not stored, and each may run once more. Only while nothing can be settled: whoever could is dead or cut off."""
    wanted = set(keys)
    ran = len(wanted & set(project.counts(word)))
    held = sum(each.ready + each.claimed + each.delayed for each in project.app.broker.stats())
    settled = len(wanted) - held
    assert 0 <= settled <= ran, f"{settled} of {len(wanted)} are settled, and {ran} ran"
    return ran - settled


def _missing(project: Project, keys: set[str], word: str, deadline: float) -> set[str]:
    while missing := keys - set(project.counts(word)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return missing


def _settled(project: Project, deadline: float) -> bool:
    while any(each.ready or each.claimed or each.delayed for each in project.app.broker.stats()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
