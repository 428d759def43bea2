"""A worker looks at its result backend when it starts, and says once what is wrong with it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from kernel import Kernel, drivers, errors
from kernel.worker import lookout


class Backend:
    """Raises `error`, if there is one, when it is read."""

    error: Exception | None = None
    settings = ()
    capabilities: Any = type("Capabilities", (), {"to_caller": False})
    closed = 0

    def __init__(self, config: Any) -> None: ...

    def open(self) -> None: ...

    def load(self, ids: Any) -> list[None]:
        if self.error is not None:
            raise self.error
        return [None for _ in ids]

    def close(self) -> None:
        type(self).closed += 1


def looked(caplog: pytest.LogCaptureFixture, app: Kernel) -> list[tuple[int, str]]:
    """Level and text of what the log says."""
    with caplog.at_level(logging.INFO, "kernel.worker"):
        lookout.look(app)
        for thread in threading.enumerate():
            if thread.name == "kernel-lookout":
                thread.join(20)
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.fixture
def app() -> Kernel:
    return Kernel("lookout", broker_url="memory://one", result_backend="memory://other")


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.OperationalError("nobody listens there"), logging.WARNING),
        (errors.ImproperlyConfigured("the password is wrong"), logging.ERROR),
        (ZeroDivisionError("a fault of the driver"), logging.WARNING),
    ],
    ids=["away", "wrong", "broken"],
)
def test_what_is_wrong_is_told_once(
    app: Kernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception, level: int
) -> None:
    monkeypatch.setattr(Backend, "error", error)
    monkeypatch.setattr(Backend, "closed", 0)
    monkeypatch.setattr(drivers, "load", lambda *_, **__: Backend)
    ((found, text),) = looked(caplog, app)
    assert found == level
    assert str(error) in text
    assert Backend.closed == 1


def test_nothing_is_said_of_one_that_works(
    app: Kernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "closed", 0)
    monkeypatch.setattr(drivers, "load", lambda *_, **__: Backend)
    assert looked(caplog, app) == []
    assert Backend.closed == 1


@pytest.mark.parametrize("url", [None, "memory://one"])
def test_there_is_no_look_without_a_backend_or_where_the_broker_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.setattr(Backend, "open", lambda self: pytest.fail("nothing is to be opened"))
    monkeypatch.setattr(drivers, "load", lambda *_, **__: Backend)
    monkeypatch.setattr(Backend, "closed", 0)
    assert looked(caplog, Kernel("lookout", broker_url="memory://one", result_backend=url)) == []
    assert Backend.closed == 0


@pytest.mark.parametrize("at_setup", [True, False])
def test_tables_are_made_when_the_worker_starts(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, at_setup: bool
) -> None:
    url = f"sqlite:///{tmp_path}/data.db"
    names = {"task": "my_tasks", "group": "my_groups"}
    settings: dict[str, Any] = {"database_table_names": names, "database_create_tables_at_setup": at_setup}
    with Kernel("lookout", broker_url=url, result_backend=url, **settings) as app:
        assert looked(caplog, app) == []
    connection = sqlite3.connect(tmp_path / "data.db")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert ({"my_tasks", "my_groups", "kernel_my_tasks", "kernel_my_tasks_history"} <= tables) is at_setup
