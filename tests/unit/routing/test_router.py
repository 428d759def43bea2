"""`task_routes`: every form of it (section 9.1 of the contract), and what is none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kernel.errors import ImproperlyConfigured
from kernel.routing.router import Router


def by_prefix(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> Any:
    return {"queue": f"{name.partition('.')[0]}-{args[0]}"} if args else None


class ByArgument:
    """A router in the form of a class, as of old."""

    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> Any:
        return (kwargs or {}).get("queue")


MAPPED = {"feed.exact": "special"}
HERE = __name__


@pytest.mark.parametrize(
    ("routes", "name", "queue"),
    [
        pytest.param(None, "feed.x", None, id="none"),
        pytest.param({}, "feed.x", None, id="empty"),
        pytest.param({"feed.x": "feeds"}, "feed.x", "feeds", id="9-1 name: queue"),
        pytest.param({"feed.x": {"queue": "feeds", "priority": 3}}, "feed.x", "feeds", id="9-1 name: options"),
        pytest.param({"feed.*": "globs", "feed.x": "exact"}, "feed.x", "exact", id="9-1 the exact name first"),
        pytest.param({"feed.*": "globs"}, "feed.x.y", "globs", id="9-2 glob"),
        pytest.param({"feed.?": "globs"}, "feed.x", None, id="9-2 without a star it is a name"),
        pytest.param({"f*": "first", "feed.*": "second"}, "feed.x", "first", id="9-2 in order"),
        pytest.param({"*": "all"}, "anything", "all", id="9-2 star alone"),
        pytest.param({re.compile(r"(video|image)\."): "media"}, "image.crop", "media", id="9-3 regular expression"),
        pytest.param({re.compile("crop"): "media"}, "image.crop", None, id="9-3 from the beginning"),
        pytest.param([("feed.*", {"queue": "a"}), ("feed.x*", {"queue": "b"})], "feed.x", "a", id="9-4 pairs"),
        pytest.param((("feed.x", "a"), (re.compile("f"), "b")), "feed.y", "b", id="9-4 pairs of a tuple"),
        pytest.param([[("feed.*", "a")], {"other": "b"}], "other", "b", id="9-4 pairs among routers"),
        pytest.param(by_prefix, "feed.x", "feed-1", id="9-5 function"),
        pytest.param(lambda name, args, kwargs, options: "plain", "x", "plain", id="9-5 function that takes no task"),
        pytest.param(f"{HERE}.by_prefix", "feed.x", "feed-1", id="9-6 path of a function"),
        pytest.param(f"{HERE}:by_prefix", "feed.x", "feed-1", id="9-6 path with a colon"),
        pytest.param(f"{HERE}.ByArgument", "feed.x", "chosen", id="9-6 path of a class"),
        pytest.param(f"{HERE}:MAPPED", "feed.exact", "special", id="9-6 path of a dictionary"),
        pytest.param(ByArgument(), "feed.x", "chosen", id="9-6 object"),
        pytest.param(ByArgument, "feed.x", "chosen", id="9-6 class"),
        pytest.param([{"other": "no"}, by_prefix, {"feed.x": "late"}], "feed.x", "feed-1", id="9-7 the first answer"),
        pytest.param([f"{HERE}.ByArgument", {"feed.x": "late"}], "feed.x", "chosen", id="9-7 with a path"),
        pytest.param([{"feed.x": {}}, {"feed.x": "late"}], "feed.x", None, id="9-7 an empty answer is one"),
    ],
)
def test_it_finds(routes: Any, name: str, queue: str | None) -> None:
    found = Router(routes).find(name, (1,), {"queue": "chosen"}, {}, None)
    assert (found or {}).get("queue") == queue


def test_it_tells_whether_the_answer_is_the_same_for_all_calls() -> None:
    assert Router({"a": "b"}).fixed
    assert Router([("a*", "b")]).fixed
    assert not Router([{"a": "b"}, by_prefix]).fixed
    assert not Router(f"{HERE}.by_prefix").fixed


def test_a_function_is_given_options_and_task() -> None:
    seen: list[Any] = []
    Router(lambda name, args, kwargs, options, task=None: seen.append((name, args, kwargs, options, task))).find(
        "x", (1,), {"a": 2}, {"priority": 3}, "the task"
    )
    assert seen == [("x", (1,), {"a": 2}, {"priority": 3}, "the task")]


def test_a_path_is_imported_when_it_is_asked() -> None:
    router = Router("no_such_module.router")
    with pytest.raises(ImproperlyConfigured, match=r"'no_such_module\.router' of task_routes cannot be imported"):
        router.find("x")


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        (5, "task_routes has 5"),
        ([5], "task_routes has 5"),
        ({"feed.x": 5}, r"task_routes\['feed.x'\].*5 is neither the name of a queue nor a dictionary"),
        ({"feed.x": ""}, "'' is neither"),
        ({7: "queue"}, "has a key 7"),
        ({"feed.x": {"qeue": "a"}}, "no option 'qeue'; did you mean 'queue'"),
        ({"feed.x": {1: "a"}}, "is neither"),
    ],
)
def test_what_is_no_router_is_named(routes: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        Router(routes)


@pytest.mark.parametrize("answer", [5, "", object(), ["queue"], {"qeue": "a"}, {3: 4}])
def test_a_router_that_answers_nonsense_is_named(answer: Any) -> None:
    def confused(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        return answer

    with pytest.raises(TypeError, match=r"confused answered for feed\.x"):
        Router(confused).find("feed.x")


def test_what_a_path_names_must_be_a_router() -> None:
    with pytest.raises(ImproperlyConfigured, match="can be neither called nor asked"):
        Router(f"{HERE}:HERE").find("x")
