from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import errors
from kernel.message import Message
from kernel.request import RESERVED_HEADERS, Request, current_request, running_request

EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def request(headers: dict[str, Any] | None = None, *, embed: dict[str, Any] = EMBED, **more: Any) -> Request:
    message = Message(
        {"id": "i", "task": "t", **(headers or {})},
        b"",
        content_type="application/json",
        properties=more.pop("properties", {}),
    )
    return Request.from_message(message, app=None, args=[1], kwargs={"x": 2}, embed=embed, **more)  # type: ignore[arg-type]


def test_the_least_message_is_enough() -> None:
    found = request()
    assert (found.id, found.task, found.args, found.kwargs) == ("i", "t", [1], {"x": 2})
    assert (found.retries, found.timelimit, found.root_id, found.headers) == (0, [None, None], None, None)
    assert not found.called_directly
    assert found.correlation_id == "i"
    assert found.lease_valid() is True


def test_fields_come_from_headers_properties_and_embed() -> None:
    sig: dict[str, Any] = {
        "task": "c",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    found = request(
        {
            "root_id": "r",
            "parent_id": "p",
            "retries": 2,
            "timelimit": [10, 5],
            "eta": "2026-01-01T00:00:00+00:00",
            "shadow": "s",
            "ignore_result": True,
            "group": "g",
            "group_index": 3,
            "mine": "yes",
            "kernel_replay": 1,
        },
        embed={**EMBED, "callbacks": [sig]},
        properties={"priority": 7, "reply_to": "q", "correlation_id": "c"},
        hostname="h",
        queue="work",
        token="tok",
        starts=2,
        seen=True,
        valid=lambda: False,
    )
    assert (found.root_id, found.parent_id, found.retries) == ("r", "p", 2)
    assert (found.time_limit, found.soft_time_limit) == (10, 5)
    assert (found.group, found.taskset, found.group_index, found.attempt) == ("g", "g", 3, 1)
    assert found.delivery_info == {"exchange": "", "routing_key": "work", "priority": 7, "redelivered": True}
    assert (found.reply_to, found.correlation_id, found.hostname) == ("q", "c", "h")
    assert (found.delivery_token, found.starts, found.lease_valid()) == ("tok", 2, False)
    assert found.headers == {"mine": "yes"}
    assert found.callbacks == [sig]


def test_the_exchange_that_a_message_was_sent_to() -> None:
    found = request({"kernel_exchange": "mail", "kernel_routing_key": "mail.eu"}, queue="work")
    assert (found.delivery_info["exchange"], found.delivery_info["routing_key"]) == ("mail", "mail.eu")
    assert (found.queue, found.headers) == ("work", None)
    # A fanout exchange needs no key.
    assert request({"kernel_exchange": "news"}, queue="work").delivery_info["routing_key"] == ""


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("retries", -1),
        ("retries", "3"),
        ("retries", True),
        ("retries", 1.5),
        ("timelimit", 5),
        ("timelimit", [1]),
        ("timelimit", ["1", None]),
        ("timelimit", [-1, None]),
        ("timelimit", [0, None]),
        ("timelimit", [float("inf"), None]),
        ("timelimit", [float("nan"), None]),
        ("timelimit", [10**400, None]),
        ("timelimit", [True, None]),
        ("root_id", 5),
        ("parent_id", ["x"]),
        ("group_index", "1"),
        ("group_index", True),
        ("eta", 12345),
        ("expires", {}),
        ("ignore_result", "no"),
        ("stamps", []),
        ("stamped_headers", {}),
        ("kernel_replay", "x"),
        ("replaced_task_nesting", []),
    ],
)
def test_a_header_of_the_wrong_type_is_named(header: str, value: Any) -> None:
    with pytest.raises(errors.InvalidTaskError, match=header):
        request({header: value})


@pytest.mark.parametrize("headers", [{"id": 5}, {"id": ""}, {"task": None}, {"task": ["x"]}])
def test_without_id_or_name_there_is_no_task(headers: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidTaskError):
        request(headers)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(RESERVED_HEADERS)), json_values, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_headers_are_a_request_or_an_invalid_task(headers: dict[str, Any]) -> None:
    try:
        found = request(headers)
    except errors.InvalidTaskError:
        return
    assert isinstance(found.retries, int)
    assert found.retries >= 0
    assert len(found.timelimit) == 2


def test_children_and_stash_are_made_at_first_use() -> None:
    found = request()
    assert not found.has_children
    found.children.append("r")
    assert found.has_children
    found.stash["plugin"] = 1
    assert found.stash == {"plugin": 1}
    assert request().stash == {}


def test_get_update_and_clear() -> None:
    found = request()
    assert found.get("id") == "i"
    assert found.get("nothing", 5) == 5
    found.update({"retries": 3}, shadow="x")
    assert (found.retries, found.shadow) == (3, "x")
    found.clear()
    assert found.id is None


def test_execution_options_would_make_the_call_again() -> None:
    options = request({"root_id": "r", "timelimit": [4, 2], "retries": 1, "mine": 1}).as_execution_options()
    assert options["task_id"] == "i"
    assert (options["time_limit"], options["soft_time_limit"], options["retries"]) == (4, 2, 1)
    assert options["headers"] == {"mine": 1}


def test_the_running_request_is_found_past_direct_calls() -> None:
    worker = request()
    direct = Request(task="other", outer=worker)
    token = current_request.set(direct)
    try:
        assert running_request() is worker
        current_request.set(Request(task="alone"))
        assert running_request() is None
    finally:
        current_request.reset(token)
    assert running_request() is None
