"""A worker of Celery's and one of ours on one queue, killed and stopped while they work it off."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.servers import RedisProcess, redis_server
from tests.faults.table import Tally
from tests.interop.conftest import SHARED, Fleet, parties
from tests.interop.parties import APPS, CeleryWorker, Worker, wait_for

COUNT = 2000
SECONDS = 0.01
"""Of one task."""
PATIENCE = 60.0

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@pytest.fixture
def pair(server: RedisProcess, celery_python: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Both systems on a broker that is theirs alone, no worker yet."""
    with parties(celery_python, tmp_path, server.url, server.url) as fleet:
        yield fleet


@pytest.fixture
def amqp_pair(kernel_rabbitmq: RabbitProcess, celery_python: Path, tmp_path: Path) -> Iterator[Fleet]:
    with parties(celery_python, tmp_path, kernel_rabbitmq.add_vhost(), "rpc://") as fleet:
        yield fleet


@pytest.fixture
def client(server: RedisProcess) -> Iterator[Any]:
    client = redis.Redis.from_url(server.url, socket_timeout=10)
    yield client
    client.close()


def launch(pair: Fleet, **more: str) -> tuple[CeleryWorker, Worker]:
    """Celery's worker and ours, both on the shared queue and on one of their own."""
    theirs = pair.theirs.worker(SHARED, pair.theirs.queue, **more)
    ours = pair.ours.worker(SHARED, pair.ours.queue)
    pair.start(theirs, ours)
    return theirs, ours


def retire(pair: Fleet, theirs: CeleryWorker) -> None:
    pair.theirs.retire(theirs, SHARED, pair.theirs.queue)


def send(pair: Fleet) -> set[str]:
    """Half of the tasks from each side; their ids."""
    calls = [(SECONDS,)] * (COUNT // 2)
    return {
        *pair.ours.send_many("shop.count", calls, queue=SHARED, ignore_result=True),
        *pair.theirs.send_many("shop.count", calls, queue=SHARED, ignore_result=True),
    }


def runs(pair: Fleet) -> dict[str, list[str]]:
    """Who ran each task, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for side, task in pair.notes("count"):
        found[task].append(side)
    return found


def wait_for_runs(pair: Fleet, least: int) -> None:
    wait_for(lambda: len(runs(pair)) >= least, lambda: f"{len(runs(pair))} of {least}; {pair.logs()}", PATIENCE)


def shake(
    pair: Fleet, workers: tuple[CeleryWorker, Worker], chance: random.Random, *, end_theirs: Callable[[], object]
) -> None:
    """Ours is killed six times, and Celery's ended as said between, while tasks are left."""
    theirs, ours = workers
    for number in range(6):
        wait_for_runs(pair, min(COUNT - 300, len(runs(pair)) + chance.randrange(60, 200)))
        time.sleep(chance.random() * 0.05)
        ours.kill()
        ours.start()
        if number % 3 == 1:
            end_theirs()
            theirs.start().wait_ready()
        ours.wait_ready()


@pytest.mark.case("R7", "X2", note="Celery's worker beside ours, ours killed")
def test_ours_is_killed_and_celerys_stopped_and_every_task_runs(pair: Fleet, client: Any, tally: Tally) -> None:
    workers = theirs, _ = launch(pair)
    ids = send(pair)
    shake(pair, workers, random.Random(20261121), end_theirs=lambda: retire(pair, theirs))
    wait_for_runs(pair, COUNT)
    found = runs(pair)
    assert set(found) == ids
    tally.runs += COUNT
    sides = [side for each in found.values() for side in each]
    assert min(sides.count("celery"), sides.count("kernel")) > COUNT / 20, "both had their part"
    # What Celery ran was acknowledged, and nobody of ours gives it out again: only a kill of ours repeats anything.
    repeated = {task: each for task, each in found.items() if len(each) > 1}
    assert all(each[0] == "kernel" for each in repeated.values()), repeated
    retire(pair, theirs)
    assert client.hlen("unacked") == 0


class Movements(threading.Thread):
    """Where each message was put last, from what the server says of every command."""

    _ID = re.compile(r'"correlation_id": ?"([0-9a-f-]{36})"')

    def __init__(self, server: RedisProcess) -> None:
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(server.url)
        self._monitor = self._client.monitor()
        self._marker = uuid.uuid4().hex
        self._last: dict[str, str] = {}
        self._monitor.__enter__()

    def run(self) -> None:
        while self._marker not in (command := str(self._monitor.next_command()["command"])):
            verb, _, rest = command.partition(" ")
            key = rest.partition(" ")[0]
            # A script's own words say nothing; what it does with them follows.
            if not verb.upper().startswith(("EVAL", "FCALL")):
                where = "kernel" if "kernel:" in key else "celery" if key.startswith("unacked") else "waiting"
                self._last.update(dict.fromkeys(self._ID.findall(rest), where))

    def close(self) -> dict[str, str]:
        """``waiting`` in a list, or with ``kernel`` or ``celery``, by the id of the task."""
        self._client.echo(self._marker)
        self.join(30)
        assert not self.is_alive()
        self._monitor.__exit__(None, None, None)
        self._client.close()
        return self._last


@pytest.mark.case("X2", server="RabbitMQ", note="both killed, Celery with acks_late")
def test_on_rabbitmq_every_task_runs_whoever_is_killed(amqp_pair: Fleet, tally: Tally) -> None:
    workers = theirs, _ = launch(amqp_pair, INTEROP_LATE="1", INTEROP_PREFETCH="4")
    ids = send(amqp_pair)
    shake(amqp_pair, workers, random.Random(20261123), end_theirs=theirs.kill)
    wait_for_runs(amqp_pair, COUNT)
    assert set(runs(amqp_pair)) == ids
    tally.runs += COUNT
    sides = [side for each in runs(amqp_pair).values() for side in each]
    assert min(sides.count("celery"), sides.count("kernel")) > COUNT / 20, "both had their part"


@pytest.mark.case("R7", note="both killed: only what Celery had taken may be missing")
def test_with_both_killed_only_what_celery_had_taken_is_missing(
    pair: Fleet, server: RedisProcess, tally: Tally
) -> None:
    movements = Movements(server)
    movements.start()
    workers = theirs, ours = launch(pair, INTEROP_PREFETCH="4")
    ids = send(pair)
    shake(pair, workers, random.Random(20261122), end_theirs=theirs.kill)

    def rest() -> int:
        (stats,) = pair.ours.app.broker.stats([SHARED])
        return stats.ready + stats.claimed + stats.delayed

    wait_for(lambda: rest() == 0, lambda: f"{rest()} are left; {pair.logs()}", PATIENCE)
    ours.stop()
    retire(pair, theirs)
    assert rest() == 0
    last = movements.close()
    assert set(last) >= ids, "every message was seen"
    missing = ids - set(runs(pair))
    assert len(missing) < COUNT / 10
    tally.runs += COUNT
    # Ours moves a message in one step from the list into its own keys and back: one that was put last into the list,
    # or into Celery's hash, and is not in the list, is with Celery or went with it.
    assert {task: last[task] for task in missing if last[task] == "kernel"} == {}
    logged = theirs.whole_log
    said = {task for task in missing if task in logged}
    # A few went while they were on their way to it, before it could say anything.
    assert len(missing - said) <= 4, missing - said


@pytest.mark.case("R7", note="leases and visibility timeouts side by side")
def test_neither_sweep_touches_what_the_other_side_holds(pair: Fleet, client: Any) -> None:
    """Ours run, and wait for their time, longer than Celery's visibility timeout and past its sweep, which comes every
    ten seconds; Celery's run longer than our lease, unacknowledged."""
    launch(pair, INTEROP_VISIBILITY="9", INTEROP_LATE="1")
    long, later = 12.0, 11.0
    ours = {*pair.ours.send_many("shop.count", [(long,)], queue=pair.ours.queue)}
    ours |= {*pair.theirs.send_many("shop.count", [(long,)], queue=pair.ours.queue)}
    theirs = {*pair.ours.send_many("shop.count", [(6.0,)], queue=pair.theirs.queue)}
    theirs |= {*pair.theirs.send_many("shop.count", [(6.0,)], queue=pair.theirs.queue)}
    waiting = {*pair.ours.send_many("shop.count", [(0.0,)] * 5, queue=pair.ours.queue, countdown=later)}
    waiting |= {*pair.theirs.send_many("shop.count", [(0.0,)] * 5, queue=pair.ours.queue, countdown=later)}
    wait_for(lambda: client.hlen("unacked") == len(theirs), pair.logs)
    wait_for_runs(pair, len(ours | theirs | waiting))
    expected = {task: ["kernel"] for task in ours | waiting} | {task: ["celery"] for task in theirs}
    assert runs(pair) == expected
    assert client.hlen("unacked") == 0


def test_what_ours_kept_for_later_or_left_is_celerys_after_a_release(pair: Fleet) -> None:
    ours = pair.ours.worker(pair.ours.queue)
    pair.workers = (ours,)
    ours.start().wait_ready()

    def release() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kernel", "-A", "ours", "migrate", "release", pair.ours.queue]
        return subprocess.run(command, cwd=APPS, env=pair.ours.environment, capture_output=True, text=True, timeout=60)

    def numbers() -> tuple[int, int, int]:
        (stats,) = pair.ours.app.broker.stats([pair.ours.queue])
        return stats.delayed, stats.claimed, stats.consumers

    later = pair.ours.send_many("shop.count", [(0.0,)] * 3, queue=pair.ours.queue, countdown=6)
    later += pair.theirs.send_many("shop.count", [(0.0,)] * 3, queue=pair.ours.queue, countdown=6)
    running = pair.ours.send_many("shop.count", [(60.0,)], queue=pair.ours.queue)
    wait_for(lambda: numbers() == (6, 1, 1), pair.logs)
    refused = release()
    assert (refused.returncode, "left as it is" in refused.stdout) == (1, True), refused
    ours.kill()
    wait_for(lambda: release().returncode == 0)
    assert numbers() == (0, 0, 0)
    # The one that ran takes its minute again, so it is not waited for.
    theirs = pair.theirs.worker(pair.ours.queue)
    pair.workers = (theirs,)
    theirs.start().wait_ready()
    wait_for_runs(pair, len(later))
    assert runs(pair) == {task: ["celery"] for task in later}
    assert running[0] in theirs.log
    theirs.kill()
