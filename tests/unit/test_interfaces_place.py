from __future__ import annotations

import json
from typing import Any

import pytest

from kernel.interfaces.place import failing_place, type_name


class Rude:
    def __repr__(self) -> str:
        raise ValueError("no")

    def __hash__(self) -> int:
        return 1


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def encode(value: Any) -> str:
    return json.dumps(value, default=vars)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([[1, {2}], {}, None], "args[1]"),
        (([], {"a": {"b": {3}}}, {"chain": None}), "kwargs['a']['b']"),
        ([[], {}, {"chord": {4}}], "embed['chord']"),
        ([[], {}, {"no": {5}}], "value[2]['no']"),
        ([[], {6}, None], "value[1]"),
        ({7}, "value"),
        ({"k" * 100: {8}}, f"value['{'k' * 36}...]"),
        ({Rude(): 1}, f"value.key(<{__name__}.Rude>)"),
        ([Holder([1j])], "value[0].held[0]"),
    ],
)
def test_the_path_leads_to_the_place(value: Any, path: str) -> None:
    assert failing_place(value, encode, vars)[0] == path


def test_the_place_is_the_value_itself() -> None:
    bad = {1, 2}
    assert failing_place([[bad], {}, None], encode)[1] is bad
    assert failing_place({(1, 2): 3}, encode) == ("value.key((1, 2))", (1, 2))


def test_objects_are_not_looked_into_unasked() -> None:
    holder = Holder({1})
    assert failing_place([holder], json.dumps) == ("value[0]", holder)


def test_it_never_raises() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = {1}
    for _ in range(300):
        deep = {"a": deep}

    def complain(value: Any) -> None:
        raise LookupError

    assert failing_place(endless, encode)[0] == "value[0]"
    assert failing_place(deep, encode)[0].startswith("value['a']['a']")
    assert failing_place([Rude()], complain, complain)[0] == "value[0]"


def test_names_of_types() -> None:
    assert type_name({1}) == "set"
    assert type_name(Rude()) == f"{__name__}.Rude"
