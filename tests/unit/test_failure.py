"""Exceptions as data: what comes back, and what is never called on the way."""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import errors, failure


class Plain(Exception):
    pass


class WantsTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Rewords(Exception):
    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


class NeedsAttribute(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}{text}")
        self.code = code

    def __str__(self) -> str:
        return f"{self.code}!"


class Outer:
    class Inner(Exception):
        pass


called: list[Any] = []


def trap(*args: Any) -> None:
    called.append(args)


class NotAnException:
    def __init__(self, *args: Any) -> None:
        called.append(args)


class Meta(type):
    def __getattr__(cls, name: str) -> object:
        called.append(name)
        return ValueError


class Dynamic(metaclass=Meta):
    pass


def there_and_back(exc: BaseException) -> BaseException:
    return failure.decode_exception(json.loads(json.dumps(failure.encode_exception(exc))))


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("no"),
        KeyError("k"),
        Plain("a", 1, None, [1, {"x": 2}]),
        Outer.Inner("deep"),
        ZeroDivisionError(),
        errors.TaskRevokedError("terminated"),
        errors.SoftTimeLimitExceeded(),
        errors.OperationalError("away"),
        errors.LeaseLost("x"),
        errors.KernelError("base"),
        errors.ContentDisallowed("pickle"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_exception_comes_back_as_itself(exc: BaseException) -> None:
    back = there_and_back(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert str(back) == str(exc)


def test_every_error_of_the_project_comes_back_as_its_class() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__:
            made = kind("text")
            assert type(there_and_back(made)) is kind, name


def test_a_missing_file_keeps_its_name() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        os.stat("/nonexistent/a")
    back = there_and_back(caught.value)
    assert isinstance(back, FileNotFoundError)
    assert back.filename == "/nonexistent/a"
    assert str(back) == str(caught.value)


@pytest.mark.parametrize(
    ("exc", "module", "name"),
    [
        (errors.TaskRevokedError("revoked"), "celery.exceptions", "TaskRevokedError"),
        (errors.OperationalError("x"), "celery.exceptions", "OperationalError"),
        (errors.EncodeError("x"), "kombu.exceptions", "EncodeError"),
        (errors.KernelError("x"), "celery.exceptions", "CeleryError"),
        (errors.LeaseLost("x"), "kernel.errors", "LeaseLost"),
        (Outer.Inner("x"), __name__, "Outer.Inner"),
        (ValueError("x"), "builtins", "ValueError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_written_is_what_celery_reads(exc: Exception, module: str, name: str) -> None:
    data = failure.encode_exception(exc)
    assert list(data) == ["exc_type", "exc_message", "exc_module"]
    assert (data["exc_module"], data["exc_type"], data["exc_message"]) == (module, name, list(exc.args))


@pytest.mark.parametrize("module", ["celery.exceptions", "billiard.exceptions", "kombu.exceptions", "kernel.errors"])
def test_celerys_own_names_are_ours(module: str) -> None:
    data = {"exc_type": "WorkerLostError", "exc_message": ["gone"], "exc_module": module}
    assert type(failure.decode_exception(data)) is errors.WorkerLostError


def test_arguments_that_cannot_be_serialized_become_text() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    data = failure.encode_exception(Plain(Odd(), Nasty(), {"k": {1, 2}}, "kept"))
    assert data["exc_message"][0] == "<odd>"
    assert "Nasty" in data["exc_message"][1]
    assert data["exc_message"][3] == "kept"
    json.dumps(data)


def test_the_serializer_says_what_it_can_take() -> None:
    def only_texts(value: object) -> None:
        if not isinstance(value, str):
            raise errors.EncodeError("no")

    assert failure.encode_exception(Plain("a", 1), only_texts)["exc_message"] == ["a", "1"]


def test_a_constructor_that_wants_something_else_is_passed_by() -> None:
    back = there_and_back(WantsTwo(5, "x"))
    assert isinstance(back, WantsTwo)
    assert str(back) == "5: x"


def test_a_constructor_that_rewords_its_argument_does_so_once() -> None:
    back = there_and_back(Rewords(7))
    assert isinstance(back, Rewords)
    assert str(back) == "code 7"


def test_an_exception_that_cannot_be_made_again_keeps_name_and_text() -> None:
    data = {"exc_type": "NeedsAttribute", "exc_message": ["7x"], "exc_module": __name__}
    back = failure.decode_exception(data)
    assert isinstance(back, errors.RemoteError)
    assert type(back).__name__ == "NeedsAttribute"
    assert str(back) == "7x"


def test_an_unknown_class_becomes_a_remote_error_of_its_name() -> None:
    data = {"exc_type": "Unknown", "exc_message": ["text", 2], "exc_module": "nowhere.at_all"}
    back = failure.decode_exception(data)
    assert isinstance(back, errors.RemoteError)
    assert type(back).__name__ == "Unknown"
    assert type(back).__module__ == "nowhere.at_all"
    assert back.args == ("text", 2)


def test_nothing_is_imported() -> None:
    name = "wsgiref.headers"
    assert name not in sys.modules
    failure.decode_exception({"exc_type": "Headers", "exc_message": [], "exc_module": name})
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "print"),
        ("builtins", "dict"),
        (__name__, "trap"),
        (__name__, "NotAnException"),
    ],
)
def test_what_is_no_exception_class_is_refused_and_not_called(module: str, name: str) -> None:
    called.clear()
    back = failure.decode_exception({"exc_type": name, "exc_message": ["true"], "exc_module": module})
    assert isinstance(back, errors.SecurityError)
    assert called == []


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"])
def test_what_ends_a_process_comes_back_as_a_remote_error(name: str) -> None:
    back = failure.decode_exception({"exc_type": name, "exc_message": [3], "exc_module": "builtins"})
    assert isinstance(back, errors.RemoteError)
    assert type(back).__name__ == name


@pytest.mark.parametrize("name", ["WorkerShutdown", "WorkerTerminate"])
def test_our_own_exits_do_not_end_a_process_either(name: str) -> None:
    back = failure.decode_exception({"exc_type": name, "exc_message": [], "exc_module": "celery.exceptions"})
    assert not isinstance(back, SystemExit)


def test_looking_a_name_up_runs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    called.clear()
    module = types.ModuleType("lazy_here")
    module.__getattr__ = trap  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_here", module)
    failure.decode_exception({"exc_type": "Anything", "exc_message": [], "exc_module": "lazy_here"})
    failure.decode_exception({"exc_type": "Dynamic.anything", "exc_message": [], "exc_module": __name__})
    assert called == []


def test_an_exception_that_was_stored_as_itself_is_itself() -> None:
    exc = Plain("x")
    assert failure.decode_exception(exc) is exc


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["builtins", "kernel.errors", "celery.exceptions"])),
    st.one_of(st.text(max_size=20), st.sampled_from(["UnicodeDecodeError", "ExceptionGroup", "OSError", "a\0b", "."])),
)
def test_decoding_never_raises(message: Any, module: str | None, name: str) -> None:
    data = {"exc_type": name, "exc_message": message, "exc_module": module}
    back = failure.decode_exception(data)
    assert isinstance(back, Exception)
    str(back)
    assert isinstance(failure.decode_exception(message), Exception)


@pytest.mark.parametrize("name", sorted(n for n, v in vars(builtins).items() if isinstance(v, type)))
def test_every_builtin_is_safe_to_name(name: str) -> None:
    back = failure.decode_exception({"exc_type": name, "exc_message": ["x"], "exc_module": "builtins"})
    assert isinstance(back, Exception)


def fail_at_depth(depth: int) -> None:
    if depth:
        fail_at_depth(depth - 1)
    raise ValueError("at the bottom")


def caught(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("it did not fail")


def test_a_traceback_is_bounded_and_keeps_both_ends() -> None:
    text = failure.traceback_text(caught(fail_at_depth, 500))
    assert text.startswith("Traceback")
    assert text.rstrip().endswith("ValueError: at the bottom")
    assert len(text) <= failure.TRACEBACK_CHARS

    huge = failure.traceback_text(caught(lambda: (_ for _ in ()).throw(ValueError("x" * 1_000_000))))
    assert len(huge) <= failure.TRACEBACK_CHARS + 100
    assert "characters left out" in huge


def test_a_traceback_begins_in_the_users_code() -> None:
    exc = caught(fail_at_depth, 0)
    assert "in caught" in failure.traceback_text(exc)
    # All of it is left out at most: an error of our own still has its place.
    assert "in fail_at_depth" in failure.traceback_text(exc, skip=lambda module: module == __name__)


def test_a_traceback_that_cannot_be_made_is_said_to_be_one() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert "Nasty" in failure.traceback_text(caught(lambda: (_ for _ in ()).throw(Nasty())))
    assert failure.one_line(Nasty()) == "Nasty"
