"""Processes for the tests, all of which end with the test."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ACTOR = Path(__file__).with_name("actor.py")


class Actor:
    """A running ``actor.py``, whose lines are gathered as they come."""

    def __init__(self, words: tuple[object, ...], before: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, str(ACTOR), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.errors = ""
        self._grew = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grew:
                # A line that the kill cut in the middle is no fact.
                if line.endswith("\n"):
                    self.lines.append(line.rstrip("\n"))
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait_lines(self, count: int, timeout: float = 30.0) -> list[str]:
        with self._grew:
            self._grew.wait_for(lambda: len(self.lines) >= count or self._ended, timeout)
        assert len(self.lines) >= count, (self.lines[-3:], self.errors)
        return self.lines

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        self.process.send_signal(signum)

    def end(self, timeout: float = 60.0) -> None:
        """Wait for a good end."""
        code = self.process.wait(timeout)
        self.join()
        assert code == 0, self.errors

    def join(self) -> None:
        self.process.wait(30)
        for thread in self._threads:
            thread.join(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    @property
    def ids(self) -> list[str]:
        """The ids it said, which come in lines of 36 characters each."""
        return [word for line in self.lines for word in line.split() if len(word) == 36]


@pytest.fixture
def actor() -> Iterator[Callable[..., Actor]]:
    running: list[Actor] = []

    def start(*words: object, before: Sequence[str] = ()) -> Actor:
        running.append(Actor(words, before))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"
