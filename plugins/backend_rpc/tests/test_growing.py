"""Chords that grow over RabbitMQ: in the queue of a chord, and with workers of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_backend_rpc import RpcBackend
from kernel_backend_rpc.joins import Joins
from kernel_lib_amqp import Wire
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.settings import broker_server

from kernel import chord, errors
from kernel.interfaces.backend import BackendConfig, ChordPart, ChordState, Record
from kernel.interfaces.broker import BrokerConfig
from kernel.naming import new_id
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import Project, WorkerProcess, project_in

TIMEOUT = 60.0
TASKS = '''
from kernel import group


@app.task
def double(x):
    note("DOUBLE", x)
    return 2 * x


@app.task
def collect(values):
    note("BODY", len(values))
    return values


@app.task(bind=True)
def grow(self, x, more=(), deeper=0, retry=False):
    """Adds a task for each of `more`, itself once more while `deeper`, and then all again, if it is to."""
    for value in more:
        self.add_to_chord(double.s(value))
    if deeper:
        self.add_to_chord(grow.s(x + 100, more, deeper - 1))
    if retry and not self.request.retries:
        raise self.retry(countdown=0)
    return x


@app.task(bind=True)
def grow_by_canvas(self, x):
    added = [self.add_to_chord(sig) for sig in (add.s(x, 1) | double.s(), group(double.s(x), double.s(x + 1)))]
    lazy = self.add_to_chord(double.s(x + 2), lazy=True)
    lazy.delay()
    return len(added)


@app.task(bind=True)
def dies(self, x, times):
    """Adds one, and takes its process along so many times; then it adds another one, too."""
    self.add_to_chord(double.s(x))
    note("DIES", x)
    with open(_LEDGER) as file:
        runs = sum(line.startswith(f"DIES {x} ") for line in file)
    if runs <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    self.add_to_chord(double.s(10 * x))
    return x
'''


# --- in the queue -------------------------------------------------------------------------------------------------


def backend_on(url: str, *, timeout: float = 4.0) -> RpcBackend:
    return RpcBackend(BackendConfig(url="rpc://", timeout=timeout, broker=BrokerConfig(url=url)))


@pytest.fixture
def backend(kernel_rabbitmq_url: str) -> Iterator[RpcBackend]:
    backend = backend_on(kernel_rabbitmq_url)
    yield backend
    backend.close()


def bring(backend: RpcBackend, chord_id: str, index: int, size: int, *, again: bool = False) -> ChordState:
    record = Record(id=f"{chord_id}-{index}", state="SUCCESS", result=b"%d" % index)
    (state,) = backend.chord_parts([ChordPart(chord_id, size, index, record, added=index >= size, again=again)])
    return state


@contextlib.contextmanager
def somebody_at(url: str, chord_id: str) -> Iterator[Wire]:
    """A connection that has the parts of a chord, as that of a worker which is gone, and nobody has noticed."""
    wire = broker_server(BrokerConfig(url=url)).connect()
    try:
        Channel(wire, 1).consume(f"kernel.chord.{chord_id}", "parts", exclusive=True)
        yield wire
    finally:
        wire.close()


def test_who_may_have_been_here_waits_for_what_is_left_of_it(kernel_rabbitmq_url: str, backend: RpcBackend) -> None:
    brief, name = backend_on(kernel_rabbitmq_url, timeout=0.3), new_id()
    try:
        assert not bring(backend, name, 0, 3).complete
        with somebody_at(kernel_rabbitmq_url, name):
            assert not bring(backend, name, 1, 3).complete
            assert not bring(backend, name, 2, 3).complete, "whoever has the others looks again"
            with pytest.raises(errors.OperationalError, match="another connection to"):
                bring(brief, name, 2, 3, again=True)
        state = bring(brief, name, 2, 3, again=True)
        assert [part.result for part in state.parts] == [b"0", b"1", b"2"]
    finally:
        brief.close()


def test_who_lost_its_connection_over_the_parts_takes_them_again(
    kernel_rabbitmq: RabbitProcess, backend: RpcBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, states, cuts = new_id(), Joins._states, [1, 1, 1]

    def cut(self: Joins, *args: Any) -> list[ChordState] | None:
        if cuts:
            cuts.pop()
            kernel_rabbitmq.close_connections()
        return states(self, *args)

    monkeypatch.setattr(Joins, "_states", cut)
    backend.grow_chord(name, 2, 5)
    bring(backend, name, 0, 2)
    bring(backend, name, 5, 2)
    for _ in range(4):
        # What is worth another try is tried again by whoever brings it.
        with contextlib.suppress(errors.OperationalError):
            state = bring(backend, name, 1, 2)
            break
    assert [part.result for part in state.parts] == [b"0", b"1", b"5"]
    assert not cuts


def test_who_does_not_know_whether_it_has_the_parts_waits(
    kernel_rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is gone before the answer, and for the server it is not."""
    backend, name, hold, lost = backend_on(kernel_rabbitmq_url, timeout=0.3), new_id(), Joins._hold, []

    def half_open(self: Joins, queue: str) -> bool:
        held = hold(self, queue)
        if not lost:
            lost.append(self._wire)
            self._wire = self._channel = None
            raise errors.OperationalError("no answer")
        return held

    monkeypatch.setattr(Joins, "_hold", half_open)
    try:
        bring(backend, name, 0, 2)
        for _ in range(2):
            with pytest.raises(errors.OperationalError, match="another connection to"):
                bring(backend, name, 1, 2)
        lost[0].close()
        assert len(bring(backend, name, 1, 2).parts) == 2
    finally:
        backend.close()


def test_what_is_added_after_the_end_is_not_waited_for(backend: RpcBackend) -> None:
    """A member runs again whose part is there, and adds another one than before."""
    name = new_id()
    backend.grow_chord(name, 1, 4)
    bring(backend, name, 4, 1)
    assert bring(backend, name, 0, 1).complete
    backend.grow_chord(name, 1, 8)
    assert not bring(backend, name, 8, 1).complete
    for _ in range(2):
        state = bring(backend, name, 0, 1, again=True)
        assert [part.result for part in state.parts] == [b"0", b"4"]


def test_parts_of_nobody_keep_nobody_looking(backend: RpcBackend) -> None:
    name = new_id()
    for index in (9, 7, 8):
        assert not bring(backend, name, index, 2).complete
    assert not bring(backend, name, 1, 2).complete
    assert len(bring(backend, name, 0, 2).parts) == 2


def test_parts_are_seldom_looked_at_while_many_are_missing(
    backend: RpcBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, looks, take = new_id(), [], Joins._take

    def counted(self: Joins, *args: Any) -> Any:
        looks.append(args)
        return take(self, *args)

    monkeypatch.setattr(Joins, "_take", counted)
    added = range(1, 101)
    for index in added:
        backend.grow_chord(name, 1, index)
    states = [bring(backend, name, index, 1) for index in (0, *added)]
    assert [state.complete for state in states] == [False] * 100 + [True]
    assert (states[50].arrived, states[50].size) == (51, 101)
    assert len(looks) == 2


# --- with workers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(kernel_rabbitmq: RabbitProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    url, folder = kernel_rabbitmq.add_vhost(), tmp_path_factory.mktemp("growing")
    settings = {"broker": url, "backend": "rpc://", "task_delivery_limit": 20}
    with project_in(folder / "p", tasks=TASKS, **settings) as project, WorkerProcess(project, "-c", "2"):
        yield project
    kernel_rabbitmq.delete_vhost(url)


def test_the_body_waits_for_those_who_were_added(project: Project) -> None:
    double, grow, collect = (project.task(name) for name in ("double", "grow", "collect"))
    project.ledger.unlink(missing_ok=True)
    made: list[tuple[Any, list[Any]]] = [
        (chord([double.s(1), grow.s(5, [6, 7])], collect.s()), [2, 5, 12, 14]),
        (chord([grow.s(1, [2]), grow.s(3, [4])], collect.s()), [1, 3, 4, 8]),
        (chord([grow.s(1, [2], 2)], collect.s()), [1, 4, 101, 4, 201, 4]),
        (chord([grow.s(1, [2], 0, True)], collect.s()), [1, 4, 4]),
        (
            chord([double.s(n) if n else grow.s(0, list(range(20))) for n in range(5)], collect.s()),
            [0, 2, 4, 6, 8, *(2 * n for n in range(20))],
        ),
        (chord([project.task("grow_by_canvas").s(1)], collect.s()), [2, 4, [2, 4], 6]),
    ]
    results = [chord.apply_async() for chord, _ in made]
    values = [result.get(timeout=TIMEOUT) for result in results]
    in_order = (0, 1, 4, 5)
    assert [values[n] for n in in_order] == [made[n][1] for n in in_order]
    assert [sorted(values[n]) for n in (2, 3)] == [sorted(made[n][1]) for n in (2, 3)]
    assert sum(project.counts("BODY").values()) == len(made)


def test_members_whose_processes_die_add_once(project: Project) -> None:
    project.ledger.unlink(missing_ok=True)
    dies, double, collect = (project.task(name) for name in ("dies", "double", "collect"))
    # The last member that runs adds, and adds another one only when it lives.
    result = chord([dies.s(4, 2), double.s(1), dies.s(5, 1)], collect.s()).delay()
    assert result.get(timeout=TIMEOUT) == [4, 2, 5, 8, 10, 80, 100]
    assert project.counts("DIES") == {"4": 3, "5": 2}
    assert project.counts("BODY") == {"7": 1}


def test_one_that_was_added_and_fails_breaks_the_chord(project: Project) -> None:
    result = chord([project.task("grow").s(1, [None])], project.task("collect").s()).delay()
    with pytest.raises(errors.ChordError, match="raised TypeError"):
        result.get(timeout=TIMEOUT)
