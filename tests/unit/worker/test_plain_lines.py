"""Lines about tasks that ended well are written without records where nobody looks at these, and are the same."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernel import states
from kernel.builtin.logs import LOGGER, TaskLogs
from kernel.interfaces.outcome import Outcome
from kernel.log import WORKER_FORMAT, HumanFormatter, JsonFormatter
from kernel.request import Request
from kernel.worker.lines import LineHandler, ProcessName

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")


class Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger of tasks, alone in its tree."""
    found = logging.getLogger(LOGGER)
    before = found.level, found.propagate, found.handlers[:]
    found.setLevel(logging.INFO)
    found.propagate, found.handlers = False, []
    yield found
    for handler in found.handlers:
        handler.close()
    found.level, found.propagate, found.handlers = before
    found.setLevel(before[0])


def handler(path: Path, formatter: logging.Formatter) -> LineHandler:
    made = LineHandler(str(path))
    made.setFormatter(formatter)
    made.addFilter(ProcessName("child-7"))
    return made


def end(value: Any = None, *, state: str = states.SUCCESS, runtime: float = 0.0123456789, **fields: Any) -> None:
    request = Request(id="a1", task="t.add", args=(), kwargs={}, **fields)
    TaskLogs().kernel_task_end(request, Outcome(state, value=value, runtime=runtime))


@pytest.mark.parametrize("text", [WORKER_FORMAT, "%(name)s %(levelname)-8s|%(message)s", "%(created).0f%% %(asctime)s"])
@pytest.mark.parametrize("value", [None, 5, "a\nb\x1b", {"a": [1]}, "x" * 5000, 1 << 4000])
@pytest.mark.parametrize("runtime", [0.0, 0.0000005, 0.1234565, 12345.6789])
def test_the_line_is_the_same(tmp_path: Path, logger: logging.Logger, text: str, value: Any, runtime: float) -> None:
    ours = handler(tmp_path / "ours", HumanFormatter(text))
    logger.addHandler(ours)
    end(value, runtime=runtime, shadow="other")
    seen = Seen()
    logger.addHandler(seen)  # it wants records
    end(value, runtime=runtime, shadow="other")
    ours.flush()
    plain, recorded = (_MOMENT.sub("now", line) for line in (tmp_path / "ours").read_text().splitlines())
    assert re.sub(r"^\d{10}", "now", plain) == re.sub(r"^\d{10}", "now", recorded)
    assert len(seen.records) == 1


@pytest.mark.parametrize(
    "formatter", [JsonFormatter(), HumanFormatter("%(process)d %(message)s"), logging.Formatter("%(message)s")]
)
def test_who_wants_more_than_a_text_gets_a_record(
    tmp_path: Path, logger: logging.Logger, formatter: logging.Formatter
) -> None:
    ours = handler(tmp_path / "ours", formatter)
    logger.addHandler(ours)
    assert not ours.takes_text("x")
    end(5)
    ours.flush()
    assert "succeeded" in (tmp_path / "ours").read_text()


def test_filters_get_records(tmp_path: Path, logger: logging.Logger) -> None:
    ours = handler(tmp_path / "ours", HumanFormatter())
    logger.addHandler(ours)
    seen: list[Any] = []
    ours.addFilter(lambda record: seen.append(vars(record)["data"]) is None)  # type: ignore[func-returns-value]
    end(5)
    assert seen[0]["return_value"] == "5"
    ours.filters.pop()
    logger.addFilter(lambda record: False)
    end(6)
    logger.filters.clear()
    ours.flush()
    assert len((tmp_path / "ours").read_text().splitlines()) == 1


def test_levels(tmp_path: Path, logger: logging.Logger) -> None:
    ours = handler(tmp_path / "ours", HumanFormatter())
    logger.addHandler(ours)
    logger.setLevel(logging.WARNING)
    end(1)
    logger.setLevel(logging.INFO)
    ours.setLevel(logging.WARNING)
    end(2)
    ours.setLevel(logging.INFO)
    logging.disable(logging.INFO)
    end(3)
    logging.disable(logging.NOTSET)
    end(4)
    end(None, state=states.FAILURE)
    ours.flush()
    lines = (tmp_path / "ours").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("s: 4")
    assert "unexpected" in lines[1]


def test_a_broken_handler_harms_no_task(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = handler(tmp_path / "ours", HumanFormatter())
    logger.addHandler(ours)
    told: list[logging.LogRecord] = []
    monkeypatch.setattr(ours, "handleError", told.append)
    monkeypatch.setattr(ours, "_put", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    end(5)
    assert told[0].getMessage().endswith("s: 5")


def test_the_limit_of_a_task(tmp_path: Path, logger: logging.Logger) -> None:
    ours = handler(tmp_path / "ours", HumanFormatter())
    logger.addHandler(ours)
    end("x" * 100, app=SimpleNamespace(tasks={"t.add": SimpleNamespace(resultrepr_maxsize=10)}))
    ours.flush()
    assert (tmp_path / "ours").read_text().rstrip().endswith("s: 'xxxxxx...")
