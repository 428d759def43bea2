"""`kernel call` and `kernel result`, with an app that only remembers what it was told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from kernel.cli import exits, main
from kernel.errors import TimeoutError as ResultTimeoutError

if TYPE_CHECKING:
    from kernel.app import Kernel


class Result:
    def __init__(self, id: str = "id-1", state: str = "PENDING", result: Any = None) -> None:
        self.id = id
        self.state = state
        self.result = result
        self.traceback = "Traceback: boom" if state == "FAILURE" else None
        self.date_done = datetime(2026, 1, 31, tzinfo=UTC) if state in ("SUCCESS", "FAILURE") else None

    def get(self, timeout: float, propagate: bool) -> Any:
        assert propagate is False
        if self.state == "PENDING":
            raise ResultTimeoutError("late")
        return self.result


class App:
    def __init__(self) -> None:
        self.tasks = {"proj.add": object()}
        self.answer = Result()
        self.sent: list[Any] = []

    def send_task(self, name: str, args: Any, kwargs: Any, **options: Any) -> Result:
        self.sent.append((name, args, kwargs, options))
        return self.answer

    def AsyncResult(self, task_id: str) -> Result:
        self.answer.id = task_id
        return self.answer

    def close(self) -> None:
        pass


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def run(app: App, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments, app=cast("Kernel", app))
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


def test_a_call_prints_its_id(run: Any, app: App) -> None:
    arguments = ["-a", "[2, 3]", "-k", '{"x": null}', "--countdown", "5m", "-Q", "q", "--priority", "3"]
    assert run("call", "proj.add", *arguments) == (exits.OK, "id-1\n", "")
    assert app.sent == [("proj.add", [2, 3], {"x": None}, {"countdown": 300, "queue": "q", "priority": 3})]
    assert json.loads(run("call", "proj.add", "--json")[1]) == {"schema": "call/1", "id": "id-1", "task": "proj.add"}


def test_times_of_a_call(run: Any, app: App) -> None:
    run("call", "proj.add", "--eta", "2026-01-31T18:00:00+00:00", "--expires", "90")
    run("call", "proj.add", "--expires", "2026-01-31T18:00:00+00:00")
    moment = datetime(2026, 1, 31, 18, tzinfo=UTC)
    assert [sent[3] for sent in app.sent] == [{"eta": moment, "expires": 90}, {"expires": moment}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-a", "2"], "a list such as"),
        (["-a", "[2"], "is not JSON"),
        (["-k", "[]"], "an object such as"),
        (["--countdown", "soon"], "such as 5m"),
        (["--eta", "tomorrow"], "2026-01-31"),
        (["--expires", "never"], "2026-01-31"),
        (["--eta", "2026-01-31", "--countdown", "1"], "give one of them"),
    ],
)
def test_a_call_that_cannot_be_read(run: Any, app: App, arguments: list[str], words: str) -> None:
    code, out, err = run("call", "proj.add", *arguments)
    assert (code, out) == (exits.USAGE, "")
    assert words in err
    assert app.sent == []


def test_a_name_that_is_nearly_registered_is_remarked_on(run: Any, app: App) -> None:
    assert "did you mean 'proj.add'" in run("call", "proj.ad")[2]
    assert run("call", "elsewhere.task")[2] == ""
    assert len(app.sent) == 2


def test_a_call_that_waits(run: Any, app: App) -> None:
    app.answer = Result(state="SUCCESS", result=5)
    assert run("call", "proj.add", "--wait", "1s") == (exits.OK, "5\n", "id-1\n")
    app.answer = Result()
    code, out, err = run("call", "proj.add", "--wait", "1s")
    assert (code, out) == (exits.FAILED, "PENDING\n")
    assert "No result after 1 s" in err


def test_results(run: Any, app: App) -> None:
    app.answer = Result(state="SUCCESS", result={"a": 1})
    assert run("result", "x")[:2] == (exits.OK, "{'a': 1}\n")
    app.answer = Result(state="FAILURE", result=ValueError("no"))
    assert run("result", "x")[:2] == (exits.FAILED, "FAILURE: ValueError: no\n")
    assert run("result", "x", "--traceback")[:2] == (exits.FAILED, "Traceback: boom\n")
    app.answer = Result(state="PROGRESS", result={"done": 3})
    assert run("result", "x")[:2] == (exits.OK, "PROGRESS: {'done': 3}\n")


def test_results_as_json(run: Any, app: App) -> None:
    app.answer = Result(state="FAILURE", result=ValueError("no"))
    data = json.loads(run("result", "x", "--json")[1])
    assert data["error"] == {"type": "ValueError", "message": "no"}
    assert (data["schema"], data["id"], data["ready"], data["result"]) == ("result/1", "x", True, None)
    app.answer = Result(state="SUCCESS", result={1, 2})
    assert json.loads(run("result", "x", "--json")[1])["result"] == "{1, 2}"


def test_waiting_for_a_result(run: Any, app: App) -> None:
    assert run("result", "x", "--wait", "1")[:2] == (exits.FAILED, "PENDING\n")
    assert run("result", "x")[:2] == (exits.OK, "PENDING\n")
