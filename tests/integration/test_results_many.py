"""Ten thousand results: one watch, one connection, and nobody looks again and again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kernel.app import Kernel
from kernel.testing.servers import redis_server

COUNT = 10_000
LIMIT = 120.0
STORER = """
import sys, time
from kernel import Kernel
from kernel.interfaces.backend import Record

url, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Kernel("storer", broker="memory://", backend=url) as app:
    sys.stdin.readline()
    for start in range(0, count, 100):
        batch = [
            Record(id=f"{prefix}-{number}", state="SUCCESS", result=b"%d" % number, date_done=time.time())
            for number in range(start, start + 100)
        ]
        app.backend.store(batch)
"""


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('many')}/results.db"
    else:
        with redis_server() as server:
            yield server.url


class Waiting:
    """An app whose watches are counted, and a process that stores ten thousand results when it is told."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = Kernel("many", broker="memory://", backend=url)
        self.prefix = uuid.uuid4().hex
        self.waits = self.watches = 0
        backend = self.app.backend
        watch = backend.watch

        def counted(ids: Any = ()) -> Any:
            self.watches += 1
            made = watch(ids)
            wait = made.wait

            def counting(timeout: float) -> Any:
                self.waits += 1
                return wait(timeout)

            monkeypatch.setattr(made, "wait", counting)
            return made

        monkeypatch.setattr(backend, "watch", counted)
        command = [sys.executable, "-c", STORER, url, self.prefix, str(COUNT)]
        self._storer = subprocess.Popen(command, stdin=subprocess.PIPE)

    def results(self) -> list[Any]:
        return [self.app.AsyncResult(f"{self.prefix}-{number}") for number in range(COUNT)]

    def store(self) -> None:
        assert self._storer.stdin is not None
        self._storer.stdin.close()

    def close(self) -> None:
        self._storer.kill()
        self._storer.wait(10)
        self.app.close()


@pytest.fixture
def waiting(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    made = Waiting(url, monkeypatch)
    yield made
    made.close()


def idle(waiting: Waiting) -> None:
    """Once all ids are watched, nothing happens until something does."""
    deadline = time.monotonic() + LIMIT
    seen = -1
    while waiting.waits != seen:
        assert time.monotonic() < deadline, "it looks again and again"
        seen = waiting.waits
        time.sleep(0.5)


def test_a_thread_waits_for_all(waiting: Waiting) -> None:
    answers: list[Any] = []
    made = waiting.app.ResultSet(waiting.results())
    thread = threading.Thread(target=lambda: answers.append(made.get(timeout=LIMIT)))
    thread.start()
    idle(waiting)
    waiting.store()
    thread.join(LIMIT)
    assert answers == [list(range(COUNT))]
    assert waiting.watches == 1


@pytest.mark.parametrize("together", [False, True])
def test_an_event_loop_waits_for_all(waiting: Waiting, together: bool) -> None:
    async def one(result: Any) -> Any:
        return await result

    async def run() -> list[Any]:
        results = waiting.results()
        if together:
            waits = asyncio.ensure_future(waiting.app.ResultSet(results).aget(LIMIT))
        else:
            waits = asyncio.ensure_future(asyncio.gather(*(one(result) for result in results)))
        await asyncio.to_thread(idle, waiting)
        waiting.store()
        return list(await asyncio.wait_for(waits, LIMIT))

    assert asyncio.run(run()) == list(range(COUNT))
    assert waiting.watches == 1
