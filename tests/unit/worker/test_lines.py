"""Log lines on their way to a descriptor: all of them, in order, whoever forks, fills or moves what they go to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.builtin.logs import LOGGER
from kernel.worker.lines import LineHandler

Pair = tuple[LineHandler, Path]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    handler = LineHandler(str(tmp_path / "log"))
    handler.setFormatter(logging.Formatter("%(message)s"))
    yield handler, tmp_path / "log"
    handler.close()


def say(handler: LineHandler, text: str, *, name: str = LOGGER, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord(name, level, __file__, 0, text, (), None))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def within(seconds: float, path: Path, expected: list[str]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and lines(path) != expected:
        time.sleep(0.002)
    return lines(path) == expected


def test_one_that_comes_alone_is_there_at_once(pair: Pair) -> None:
    handler, path = pair
    say(handler, "alone")
    assert lines(path) == ["alone"]


def test_many_are_all_there_soon_and_in_order(pair: Pair) -> None:
    handler, path = pair
    texts = [f"line {number} ☃" for number in range(1000)]
    for text in texts:
        say(handler, text)
    assert within(5, path, texts)


def test_what_is_wrong_waits_for_nothing_and_overtakes_nobody(pair: Pair) -> None:
    handler, path = pair
    for number in range(10):
        say(handler, str(number))
    say(handler, "failed", level=logging.ERROR)
    say(handler, "another logger", name="kernel.worker")
    assert lines(path) == [*map(str, range(10)), "failed", "another logger"]


def test_threads_lose_no_line(pair: Pair) -> None:
    handler, path = pair

    def talk(of: int) -> None:
        for number in range(300):
            say(handler, f"{of} {number}")

    threads = [threading.Thread(target=talk, args=(of,)) for of in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    handler.flush()
    found = lines(path)
    assert len(found) == 1200
    for of in range(4):
        assert [line for line in found if line.startswith(f"{of} ")] == [f"{of} {number}" for number in range(300)]


def test_a_forked_process_writes_its_own_lines_and_not_its_parents(pair: Pair) -> None:
    handler, path = pair
    say(handler, "first")
    with handler.lock or threading.Lock():
        handler._held.append("the parent's")
    pid = os.fork()
    if pid == 0:
        say(handler, "the child's")
        handler.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    handler.flush()
    assert sorted(lines(path)) == ["first", "the child's", "the parent's"]


def test_a_file_that_was_moved_is_opened_anew(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, path = pair
    say(handler, "old")
    path.rename(path.with_suffix(".1"))
    handler._looked -= 60
    say(handler, "new", level=logging.WARNING)
    assert (lines(path.with_suffix(".1")), lines(path)) == (["old"], ["new"])


def test_a_full_pipe_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = LineHandler(writer)
    text = "x" * 200_000
    got: list[bytes] = []

    def read() -> None:
        while sum(map(len, got)) < len(text) + 1:
            time.sleep(0.01)
            got.append(os.read(reader, 1 << 16))

    thread = threading.Thread(target=read)
    thread.start()
    say(handler, text)
    thread.join(10)
    handler.close()
    os.close(reader)
    os.close(writer)
    assert b"".join(got) == text.encode() + b"\n"
