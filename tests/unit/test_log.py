"""Log lines: what is in them, what cannot get into them, and what tasks print."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import errors, log, states
from kernel.builtin.logs import LOGGER, TaskLogs
from kernel.interfaces.outcome import Outcome
from kernel.request import Request, current_request


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("test_log.logger")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    yield made
    made.handlers.clear()
    made.filters.clear()
    made.propagate = True


@pytest.fixture
def in_task() -> Iterator[Request]:
    request = Request(id="id-1", task="shop.pay", called_directly=False)
    token = current_request.set(request)
    yield request
    current_request.reset(token)


def attach(logger: logging.Logger, formatter: logging.Formatter) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return stream


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


# --- formats ------------------------------------------------------------------------------------------------


def test_a_task_logger_knows_its_task(in_task: Request) -> None:
    logger = log.get_task_logger("test_log.tasks")
    logger.setLevel(logging.INFO)
    kept = Kept()
    logger.addHandler(kept)
    try:
        assert logger.name == "test_log.tasks"
        assert logger.parent is logging.getLogger(log.TASK_LOGGER)
        assert log.get_task_logger("test_log.tasks") is logger
        assert len(logger.filters) == 1, "asked for twice, it is filtered once"
        logger.info("x")
        assert (kept.records[0].task_id, kept.records[0].task_name) == ("id-1", "shop.pay")  # type: ignore[attr-defined]
    finally:
        logger.removeHandler(kept)


def test_outside_a_task_the_fields_are_there_all_the_same(logger: logging.Logger) -> None:
    logger.addFilter(log.TaskContext())
    stream = attach(logger, log.HumanFormatter())
    logger.info("hello")
    assert "???[???]: hello" in stream.getvalue()


@pytest.mark.parametrize("name", ["kernel.task", "kernel.redirected", "kernel"])
def test_the_projects_own_loggers_are_no_task_loggers(name: str) -> None:
    with pytest.raises(ValueError, match="project's own"):
        log.get_task_logger(name)


def test_celerys_format(logger: logging.Logger) -> None:
    stream = attach(logger, log.HumanFormatter())
    logger.info("hello %s", "there")
    line = stream.getvalue()
    assert line.startswith("[20")
    assert line.endswith(": INFO/MainProcess] hello there\n")


def test_a_format_of_ones_own(logger: logging.Logger) -> None:
    stream = attach(logger, log.HumanFormatter("%(asctime)s|%(message)s", datefmt="%Y"))
    logger.info("x")
    year, message = stream.getvalue().strip().split("|")
    assert len(year) == 4
    assert message == "x"


def test_the_time_of_a_line_is_its_own(logger: logging.Logger) -> None:
    formatter = log.HumanFormatter("%(asctime)s")
    records = [logging.makeLogRecord({"msg": "", "created": at, "msecs": 5.0}) for at in (1e9, 1e9 + 1, 1e9)]
    first, second, third = map(formatter.format, records)
    assert first == third != second
    assert first.endswith(",005")
    assert first == logging.Formatter("%(asctime)s").format(records[0])


@pytest.mark.parametrize("bad", ["\n", "\r", "\x1b[2J", "\x00", "\x7f", "\x85", "\u2028"])
def test_a_message_cannot_forge_a_line(logger: logging.Logger, bad: str) -> None:
    stream = attach(logger, log.HumanFormatter())
    logger.info("before%s[2026-01-01 00:00:00,000: INFO/MainProcess] forged", bad)
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert bad not in text.rstrip("\n")


def test_ordinary_text_stays_as_it_is(logger: logging.Logger) -> None:
    stream = attach(logger, log.HumanFormatter("%(message)s"))
    logger.info("größer\tals 日本 \\n")
    assert stream.getvalue() == "größer\tals 日本 \\n\n"


def test_no_line_of_a_traceback_passes_for_a_log_line(logger: logging.Logger) -> None:
    stream = attach(logger, log.HumanFormatter())
    try:
        raise ValueError("x\n[2026-01-01 00:00:00,000: INFO/MainProcess] forged\x1b[0m")
    except ValueError:
        logger.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert any("ValueError" in line for line in rest)
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_json_lines(logger: logging.Logger, in_task: Request) -> None:
    stream = attach(logger, log.JsonFormatter())
    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("failed\n", extra={"data": {"id": 1, "odd": {1, 2}}})
    [line] = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert fields["message"] == "failed\n"
    assert fields["level"] == "ERROR"
    assert fields["logger"] == "test_log.logger"
    assert fields["task_id"] == "id-1"
    assert fields["task_name"] == "shop.pay"
    assert fields["data"]["id"] == 1
    assert fields["traceback"].endswith("ValueError: a\nb")
    assert fields["time"].endswith("Z")


def test_json_of_what_json_cannot_hold(logger: logging.Logger) -> None:
    stream = attach(logger, log.JsonFormatter())
    loop: dict[Any, Any] = {}
    loop["self"] = loop
    logger.info("x", extra={"data": loop, "keys": {(1, 2): 3}})
    fields = json.loads(stream.getvalue())
    assert fields["message"] == "x"
    assert "1, 2" in fields["keys"]


# --- what is printed ----------------------------------------------------------------------------------------


def test_printed_lines_become_records(logger: logging.Logger) -> None:
    kept = Kept()
    logger.addHandler(kept)
    proxy = log.LoggingProxy(logger, logging.WARNING)
    print("one", 2, file=proxy)
    print("three\nfour", file=proxy)
    print("un", end="", file=proxy)
    print("finished", file=proxy)
    print("\n\n", file=proxy)
    assert [record.getMessage() for record in kept.records] == ["one 2", "three", "four", "unfinished"]
    print("rest", end="", file=proxy)
    proxy.flush()
    assert kept.records[-1].getMessage() == "rest"
    assert kept.records[-1].levelno == logging.WARNING


def test_threads_do_not_mix_their_lines(logger: logging.Logger) -> None:
    kept = Kept()
    logger.addHandler(kept)
    proxy = log.LoggingProxy(logger)
    barrier = threading.Barrier(4, timeout=10)

    def write(name: str) -> None:
        for part in ("a", "b", "c"):
            barrier.wait()
            proxy.write(f"{name}{part}")
        proxy.write("\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(record.getMessage() for record in kept.records) == [f"{n}a{n}b{n}c" for n in "1234"]


def test_a_handler_that_prints_does_not_recurse(logger: logging.Logger) -> None:
    fallback = io.StringIO()
    proxy = log.LoggingProxy(logger, fallback=fallback)

    class Prints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("from the handler", file=proxy)

    logger.addHandler(Prints())
    print("x", file=proxy)
    assert fallback.getvalue() == "from the handler\n"


def test_a_line_that_never_ends_is_logged_in_pieces(logger: logging.Logger) -> None:
    kept = Kept()
    logger.addHandler(kept)
    proxy = log.LoggingProxy(logger)
    for _ in range(100):
        proxy.write("x" * 1000)
    assert len(kept.records) > 1


def test_a_proxy_is_a_text_stream(logger: logging.Logger) -> None:
    proxy = log.LoggingProxy(logger)
    assert proxy.writable()
    assert not proxy.isatty()
    assert proxy.encoding == "utf-8"
    with pytest.raises(io.UnsupportedOperation):
        proxy.fileno()
    with pytest.raises(TypeError):
        proxy.write(b"x")  # type: ignore[arg-type]


def test_redirecting_is_undone(logger: logging.Logger) -> None:
    before = (sys.stdout, sys.stderr)
    kept = Kept()
    logger.addHandler(kept)
    restore = log.redirect_streams(logging.ERROR, logger)
    try:
        print("to the log")
        print("and this", file=sys.stderr, end="")
    finally:
        restore()
    assert (sys.stdout, sys.stderr) == before
    assert [record.getMessage() for record in kept.records] == ["to the log", "and this"]


# --- one line for each end ----------------------------------------------------------------------------------


def ended(outcome: Outcome, **fields: Any) -> logging.LogRecord:
    logger = logging.getLogger("test_log.ends")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    kept = Kept()
    logger.handlers[:] = [kept]
    request = Request(**{"id": "id-1", "task": "shop.pay", "args": (1,), "kwargs": {"a": 2}, **fields})
    TaskLogs(logger).kernel_task_end(request, outcome)
    [record] = kept.records
    return record


@pytest.mark.parametrize(
    ("outcome", "level", "text"),
    [
        (Outcome(states.SUCCESS, 0.1234, value={"x": 1}), "INFO", "succeeded in 0.123400s: {'x': 1}"),
        (Outcome(states.FAILURE, error=ValueError("no")), "ERROR", "raised unexpected: ValueError('no')"),
        (Outcome(states.FAILURE, error=ValueError("no"), expected=True), "INFO", "raised expected: ValueError('no')"),
        (Outcome(states.RETRY, error=OSError("x"), retry_in=3.0), "INFO", "retry: Retry in 3s: OSError('x')"),
        (Outcome(states.RETRY, retry_in=2.5), "INFO", "retry: Retry in 2.5s"),
        (Outcome(states.IGNORED), "INFO", "ignored"),
        (Outcome(states.REJECTED, error=errors.Reject("bad", False)), "INFO", "rejected: bad"),
        (Outcome(states.REVOKED, error=errors.TaskRevokedError("expired")), "INFO", "revoked: expired"),
    ],
    ids=lambda value: value.state if isinstance(value, Outcome) else "",
)
def test_one_line_for_each_end(outcome: Outcome, level: str, text: str) -> None:
    record = ended(outcome)
    assert record.getMessage() == f"Task shop.pay[id-1] {text}"
    assert record.levelname == level
    data = record.data  # type: ignore[attr-defined]
    assert data["id"] == "id-1"
    assert data["name"] == "shop.pay"
    assert data["args"] == "(1,)"
    assert data["kwargs"] == "{'a': 2}"
    assert data["runtime"] == outcome.runtime


def test_an_unexpected_error_comes_with_its_traceback_and_an_expected_one_without() -> None:
    error = ValueError("no")
    record = ended(Outcome(states.FAILURE, error=error, traceback="Traceback: here"))
    assert record.exc_text == "Traceback: here"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    text = log.HumanFormatter().format(record)
    assert text.count("Traceback") == 1
    assert ended(Outcome(states.FAILURE, error=error, traceback="Traceback: here", expected=True)).exc_text is None


def test_the_shadow_and_the_callers_own_reprs_are_shown() -> None:
    record = ended(Outcome(states.SUCCESS, value=1), shadow="nice", argsrepr="('***',)", kwargsrepr="{}")
    assert record.getMessage().startswith("Task nice[id-1]")
    assert record.data["args"] == "('***',)"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    ["x" * 5000, list(range(10_000)), {n: n for n in range(10_000)}, set(range(10_000)), 10**5000, b"y" * 5000],
    ids=lambda value: type(value).__name__,
)
def test_a_large_value_is_cut(value: object) -> None:
    assert len(ended(Outcome(states.SUCCESS, value=value)).getMessage()) < 1200


def test_a_value_whose_repr_fails_or_prints_controls() -> None:
    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Nasty" in ended(Outcome(states.SUCCESS, value=Nasty())).getMessage()
    record = ended(Outcome(states.SUCCESS, value="a\nb"))
    assert len(log.HumanFormatter().format(record).splitlines()) == 1


def test_nothing_is_made_where_nobody_listens() -> None:
    class Untouched:
        def __repr__(self) -> str:
            raise AssertionError("it was shown to nobody")

    logger = logging.getLogger("test_log.silent")
    logger.setLevel(logging.CRITICAL)
    TaskLogs(logger).kernel_task_end(Request(id="1", task="t"), Outcome(states.SUCCESS, value=Untouched()))
    assert TaskLogs().logger.name == LOGGER
