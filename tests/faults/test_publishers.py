"""Case P11: a process that is killed while it publishes a canvas."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import errors
from kernel.testing.servers import redis_server
from kernel.testing.workers import Project, WorkerProcess, project_in
from tests.faults import chords
from tests.faults.redis_fleet import redis_project
from tests.faults.table import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

MANY = 1200
"""More than one batch, and more than one command."""

# The child says what it is about to send, and dies over it.
_HEAD = """
import json, os, sys
import proj
from kernel import chord, deliver

def die():
    os.kill(os.getpid(), 9)

header = [proj.member.s(f"h.{n}") for n in range(int(sys.argv[1]))]
made = chord(header, proj.body.s("h"))
made.freeze("body of h")
print(json.dumps(made), flush=True)
"""
# Within the transaction, when all is in it.
_SQL = """
from kernel_broker_sql import outbox

insert = outbox.insert

def insert_and_die(tx, accepted, *rest):
    insert(tx, accepted, *rest)
    if len(accepted) > 1:
        die()

outbox.insert = insert_and_die
made.delay()
"""
# When the server has most of it.
_REDIS = """
from kernel_lib_redis import Link

def send_most_and_die(link, data):
    if len(data) < 100_000:
        return link._wire.send(data)
    link._wire.send(data[:len(data) * 3 // 4])
    die()

Link.send_packed = send_most_and_die
made.delay()
"""
# After two batches, as where a broker takes them one by one.
_BATCHES = """
deliver.BATCH = deliver.WHOLE = 100
publish, calls = proj.app.broker.publish, []

def publish_two_and_die(batch, *rest):
    found = publish(batch, *rest)
    calls.append(batch)
    if len(calls) == 2:
        die()
    return found

proj.app.broker.publish = publish_two_and_die
made.delay()
"""


@contextlib.contextmanager
def on(server: str, folder: Path) -> Iterator[Project]:
    with contextlib.ExitStack() as stack:
        if server == "SQLite":
            yield stack.enter_context(project_in(folder / "p", tasks=chords.TASKS))
        else:
            redis = stack.enter_context(redis_server())
            yield stack.enter_context(redis_project(folder, redis, tasks=chords.TASKS))


def killed(project: Project, script: str, count: int) -> str:
    """The canvas that a process was killed over, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + script, str(count)],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


def waiting(project: Project) -> int:
    return sum(each.ready + each.delayed for each in project.app.broker.stats())


@pytest.mark.parametrize(
    ("server", "script"),
    [
        pytest.param("SQLite", _SQL, marks=pytest.mark.case("P11"), id="SQLite"),
        pytest.param("Redis", _REDIS, marks=pytest.mark.case("P11", server="Redis"), id="Redis"),
    ],
)
def test_a_canvas_is_stored_wholly_or_not_at_all(tmp_path: Path, tally: Tally, server: str, script: str) -> None:
    with on(server, tmp_path) as project:
        made = killed(project, script, MANY)
        tally.runs += 1
        assert waiting(project) == 0
        # Nothing of it is in the way of the same again.
        project.app.signature(json.loads(made)).delay()
        assert waiting(project) == MANY


@pytest.mark.case("P11", note="more than goes in one batch: the body never runs, and all of it may be sent again")
def test_half_a_chord_never_ends_and_may_be_sent_again(tmp_path: Path, tally: Tally) -> None:
    """Where part of a header was published its members run, and nobody takes that for the whole; the same canvas sent
    again completes it: what ran already counts once."""
    with project_in(tmp_path / "p", tasks=chords.TASKS) as project:
        made = killed(project, _BATCHES, 500)
        assert waiting(project) == 200
        body = project.app.AsyncResult("body of h")
        with WorkerProcess(project, "-c", "2"):
            chords.settle(project, 60)
            assert len(project.counts("MEMBER")) == 200
            with pytest.raises(errors.TimeoutError):
                body.get(timeout=0.5)
            assert not project.counts("BODY")
            result = project.app.signature(json.loads(made)).delay()
            chords.judge_chord(project, "h", result, 500, tally, within=60)
        assert result.id == body.id
