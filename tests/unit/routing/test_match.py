"""Routing keys: the same answers as RabbitMQ's topic exchanges."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.interfaces.broker import Bound
from kernel.routing.match import headers_match, matches, queues_for, topic_matches


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*", "a", True),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("#.c", "c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.b.cc", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.x.y.c", True),
        ("a.#.#.c", "a.c", True),
        ("#.#", "", True),
        ("*.#", "", False),
        ("#.*", "a", True),
        ("a.*.#.d", "a.b.d", True),
        ("a.*.#.d", "a.d", False),
        ("", "", True),
        ("", "a", False),
        ("a+b.(c)", "a+b.(c)", True),
        ("a+b.(c)", "aab.c", False),
    ],
)
def test_topics(pattern: str, key: str, fits: bool) -> None:
    assert topic_matches(pattern, key) is fits


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=6),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=6),
)
def test_topics_as_a_regular_expression_has_them(pattern: list[str], words: list[str]) -> None:
    parts = {"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}
    expression = "".join(parts.get(word, rf"{word}\.") for word in pattern)
    wanted = re.fullmatch(expression, "".join(f"{word}." for word in words)) is not None
    assert topic_matches(".".join(pattern), ".".join(words)) is wanted


def test_a_long_pattern_takes_no_longer_than_its_length() -> None:
    assert not topic_matches(".".join(["#", "a"] * 50), ".".join(["a"] * 200 + ["b"]))


@pytest.mark.parametrize(
    ("arguments", "headers", "fits"),
    [
        ({}, {"a": 1}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 3}, True),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "y"}, False),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2, "b": "x"}, True),
        ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2}, False),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": None}, {"b": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"x-a": 1}, {}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
    ],
)
def test_headers(arguments: dict[str, Any], headers: dict[str, Any], fits: bool) -> None:
    assert headers_match(arguments, headers) is fits


def test_direct_and_fanout() -> None:
    assert matches("direct", "a.*", "a.*")
    assert not matches("direct", "a.*", "a.b")
    assert matches("fanout", "this", "that")


def test_each_queue_takes_a_message_once() -> None:
    bound = [Bound("one", "a.#", "topic"), Bound("two", "b", "topic"), Bound("one", "*.b", "topic")]
    assert queues_for(bound, "a.b") == ["one"]
    assert queues_for([Bound("one", "a.#"), Bound("two", "a.b")], "a.b") == ["two"]
    assert queues_for([Bound("one", "a.#"), Bound("two", "a.b")], "a.b", "topic") == ["one", "two"]
