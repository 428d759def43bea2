"""Time limits that hit their task and nobody else's, and tasks that no lease interrupts.

Cases F5, X5, X6, X9, X12 of the fault matrix.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from kernel import states
from kernel.testing.workers import WorkerProcess, project_in, results_within, wait_for

pytestmark = pytest.mark.faults

TASKS = """
@app.task(bind=True)
def grind(self, key, seconds):
    '''Hold the GIL in C for about so long: no other thread of this process runs meanwhile.'''
    note("BEGIN", key)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ctypes.PyDLL(None).usleep(int(min(0.9, max(0.001, deadline - time.monotonic())) * 1e6))
    note("COMMIT", key)
    return key

@app.task
def patient(key, seconds):
    note("BEGIN", key)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            time.sleep(0.005)
    except SoftTimeLimitExceeded:
        note("SOFT", key)
        return "cleaned up"
    note("COMMIT", key)
    return key

@app.task
async def apatient(key, seconds):
    import asyncio
    note("BEGIN", key)
    try:
        await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("SOFT", key)
        return "cleaned up"
    return key

@app.task
def leave(how):
    note("BEGIN", how)
    if how == "exit":
        sys.exit(3)
    if how == "os_exit":
        os._exit(0)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stop":
        raise StopIteration
    if how == "generator":
        raise GeneratorExit
    if how == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        return "alive"
    if how == "fork":
        if os.fork() == 0:
            return "child"
        return "parent"
"""

POOLS = [
    pytest.param(("-P", "prefork", "-c", "1"), id="prefork"),
    pytest.param(("-P", "threads", "-c", "4"), id="threads"),
    pytest.param(("-P", "solo"), id="solo"),
    pytest.param(("-P", "asyncio", "-c", "10"), id="asyncio"),
]


@pytest.mark.case("F5")
def test_a_task_of_ten_leases_that_holds_the_gil_is_begun_once(tmp_path: Path) -> None:
    """In each pool, with another worker on the same queues that has nothing else to do."""
    pools: dict[str, tuple[str, ...]] = {str(pool.id): pool.values[0] for pool in POOLS}  # type: ignore[dict-item]
    with project_in(tmp_path / "p", tasks=TASKS, worker_lease=1) as project, contextlib.ExitStack() as stack:
        workers = [WorkerProcess(project, *pool, "-Q", name) for name, pool in pools.items()]
        for worker in workers:
            stack.enter_context(worker)
        grind = project.task("grind")
        results = [grind.apply_async((name, 10), queue=name) for name in pools]
        wait_for(lambda: set(project.counts("BEGIN")) == set(pools), 10)
        stack.enter_context(WorkerProcess(project, "-c", "4", "-Q", ",".join(pools)))
        assert results_within(results, 30) == list(pools)
        assert project.counts("BEGIN") == dict.fromkeys(pools, 1)


@pytest.mark.parametrize("pool", POOLS)
def test_a_soft_limit_reaches_the_task_and_no_other(tmp_path: Path, pool: tuple[str, ...]) -> None:
    with project_in(tmp_path / "p", tasks=TASKS) as project, WorkerProcess(project, *pool):
        name = "apatient" if "asyncio" in pool else "patient"
        other = project.task(name).apply_async(("other", 1.5))
        limited = project.task(name).apply_async(("limited", 30), soft_time_limit=0.5)
        assert limited.get(timeout=15) == "cleaned up"
        assert other.get(timeout=15) == "other"
        assert project.counts("SOFT") == {"limited": 1}


@pytest.mark.parametrize("pool", POOLS)
def test_a_hard_limit_ends_a_task_that_will_not_end(tmp_path: Path, pool: tuple[str, ...]) -> None:
    with project_in(tmp_path / "p", tasks=TASKS, worker_limit_grace=0.5) as project:
        with WorkerProcess(project, *pool) as worker:
            stuck = project.task("grind").apply_async(("stuck", 120), time_limit=1)
            error = stuck.get(timeout=15, propagate=False)
            assert type(error).__name__ == "TimeLimitExceeded"
            assert stuck.state == states.FAILURE
            assert project.task("add").delay(1, 2).get(timeout=10) == 3
            assert worker.process.poll() is None
        assert project.counts("BEGIN") == {"stuck": 1}
        assert project.app.broker.stats()[0].dead == 0


def test_neighbours_of_a_killed_task_go_back_uncharged(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", tasks=TASKS, worker_limit_grace=0.3) as project:
        with WorkerProcess(project, "-P", "threads", "-c", "4"):
            neighbour = project.task("patient").delay("neighbour", 3)
            wait_for(lambda: project.counts("BEGIN")["neighbour"], 10)
            stuck = project.task("patient").apply_async(("stuck", 60), time_limit=1)
            assert type(stuck.get(timeout=15, propagate=False)).__name__ == "TimeLimitExceeded"
            assert neighbour.get(timeout=20) == "neighbour"
        assert project.counts("BEGIN")["neighbour"] == 2
        assert project.counts("BEGIN")["stuck"] == 1


def test_neighbours_on_one_loop_have_time_to_end(tmp_path: Path) -> None:
    """While a killed task's process takes nothing new, its event loop goes on turning; what cannot start waits."""
    with (
        project_in(tmp_path / "p", tasks=TASKS, worker_limit_grace=8.0) as project,
        WorkerProcess(project, "-P", "asyncio", "-c", "4"),
    ):
        neighbour = project.task("apatient").delay("neighbour", 3)
        wait_for(lambda: project.counts("BEGIN")["neighbour"], 10)
        stuck = project.task("apatient").apply_async(("stuck", 60), time_limit=1)
        wait_for(lambda: project.counts("BEGIN")["stuck"], 10)
        time.sleep(1.3)  # into the grace
        late = project.task("apatient").delay("late", 0)
        assert type(stuck.get(timeout=15, propagate=False)).__name__ == "TimeLimitExceeded"
        assert neighbour.get(timeout=20) == "neighbour"
        assert late.get(timeout=20) == "late"
        assert project.counts("BEGIN") == {"neighbour": 1, "stuck": 1, "late": 1}


def test_one_soft_limit_is_not_felt_twice(tmp_path: Path) -> None:
    """The limit of a neighbour in the same process must not interrupt a task that is cleaning up after its own."""
    tasks = (
        TASKS
        + """
@app.task
def tidy(key):
    try:
        while True:
            time.sleep(0.005)
    except SoftTimeLimitExceeded:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            time.sleep(0.005)
        return "tidied up"
"""
    )
    with project_in(tmp_path / "p", tasks=tasks) as project, WorkerProcess(project, "-P", "threads", "-c", "4"):
        results = [project.task("tidy").apply_async((f"k{n}",), soft_time_limit=0.3 + n * 0.3) for n in range(4)]
        assert results_within(results, 20) == ["tidied up"] * 4


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_limits_in_the_workers_own_process(tmp_path: Path, pool: str) -> None:
    with (
        project_in(tmp_path / "p", tasks=TASKS) as project,
        WorkerProcess(project, "-P", pool, "-c", "1", "--processes", "0") as worker,
    ):
        task = project.task("apatient" if pool == "asyncio" else "patient")
        assert task.apply_async(("soft", 30), soft_time_limit=0.5).get(timeout=10) == "cleaned up"
        hard = task.apply_async(("hard", 30), time_limit=0.5)
        assert type(hard.get(timeout=10, propagate=False)).__name__ == "TimeLimitExceeded"
        assert project.task("add").delay(1, 2).get(timeout=10) == 3
        assert worker.process.poll() is None


@pytest.mark.case("X5")
def test_a_limit_that_races_with_the_end_gives_one_result(tmp_path: Path) -> None:
    """X5: whichever comes first, state, result and ledger agree."""
    with project_in(tmp_path / "p", tasks=TASKS) as project:
        with WorkerProcess(project, "-c", "4", "-l", "ERROR"):
            patient = project.task("patient")
            calls = [(f"k{n}", 0.2 + (n % 20) * 0.01) for n in range(60)]
            results = [patient.apply_async(call, time_limit=0.3) for call in calls]
            outcomes = results_within(results, 60)
        committed = project.counts("COMMIT")
        for (key, _), outcome in zip(calls, outcomes, strict=True):
            if outcome == key:
                assert committed[key] == 1
            else:
                assert type(outcome).__name__ == "TimeLimitExceeded"
        assert {type(outcome).__name__ for outcome in outcomes} == {"str", "TimeLimitExceeded"}
        assert max(project.counts("BEGIN").values()) == 1


@pytest.mark.case("X6")
def test_a_kill_never_hits_the_next_task(tmp_path: Path) -> None:
    """X6: short tasks back to back, every tenth of which runs right into its hard limit."""
    with project_in(tmp_path / "p", tasks=TASKS) as project:
        with WorkerProcess(project, "-c", "2", "-l", "ERROR"):
            patient, work = project.task("patient"), project.task("work")
            limited = [patient.apply_async((f"l{n}", 0.25), time_limit=0.25) for n in range(40)]
            innocent = work.map_delay([(f"i{n}", 0.001) for n in range(600)])
            assert results_within(innocent, 60) == [f"i{n}" for n in range(600)]
            ends = results_within(limited, 60)
        assert all(end == f"l{n}" or type(end).__name__ == "TimeLimitExceeded" for n, end in enumerate(ends))
        committed = project.counts("COMMIT")
        assert {committed[f"i{n}"] for n in range(600)} == {1}


@pytest.mark.case("X9")
def test_tasks_that_leave_in_strange_ways(tmp_path: Path) -> None:
    settings = {"task_delivery_limit": 2}
    with project_in(tmp_path / "p", tasks=TASKS, **settings) as project, WorkerProcess(project, "-c", "2") as worker:
        leave = project.task("leave")
        ends = {
            how: leave.delay(how).get(timeout=20, propagate=False)
            for how in ("exit", "os_exit", "interrupt", "stop", "generator", "ignore_term", "fork")
        }
        names = {how: type(end).__name__ for how, end in ends.items()}
        assert names["exit"] == names["interrupt"] == names["os_exit"] == "WorkerLostError"
        assert "StopIteration" in names["stop"] or names["stop"] == "RuntimeError"
        assert names["generator"] != "str"
        assert ends["ignore_term"] == "alive"
        assert ends["fork"] in ("parent", "child")
        time.sleep(0.2)
        assert project.task("add").delay(1, 1).get(timeout=10) == 2
        assert worker.process.poll() is None
