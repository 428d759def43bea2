"""Long texts take another way through the encoder; what comes out is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_serializer_json import JsonSerializer
from kernel_serializer_json.texts import LONG, has_long_text, quote

from kernel import errors

SPECIAL = st.characters(codec="ascii") | st.sampled_from('"\\\n\x00\x1f\x7f\x80é\ud800\U0001f600')


@given(st.lists(st.tuples(st.integers(0, 2 * LONG), SPECIAL), max_size=60), st.integers(LONG - 2, 2 * LONG))
def test_a_long_text_is_quoted_as_the_standard_library_quotes_it(placed: list[tuple[int, str]], length: int) -> None:
    characters = ["x"] * length
    for place, character in placed:
        characters[place % length] = character
    text = "".join(characters)
    assert quote(text) == json.dumps(text)


@pytest.mark.parametrize("text", ['"' * LONG, "a line\n" * LONG, "\x7f" + "x" * LONG])
def test_a_text_of_many_escapes_too(text: str) -> None:
    assert quote(text) == json.dumps(text)


@pytest.mark.parametrize(
    "value",
    [
        "x" * LONG,
        [1, "x" * LONG],
        ((1, "x" * LONG), {}, {"chain": None}),
        ((), {"text": "x" * LONG, 3: None, "deep": [[["short", 1.5, True]]]}, {}),
        [{"x" * LONG: "é" * LONG}],
    ],
)
def test_values_with_long_texts_are_written_as_json_writes_them(value: Any) -> None:
    serializer = JsonSerializer()
    for _ in range(3):  # the second time, it knows that there are long ones
        assert serializer.dumps(value) == json.dumps(value).encode()
    assert serializer.dumps([1, "short"]) == b'[1, "short"]'
    assert serializer.dumps(value) == json.dumps(value).encode()


def test_types_beyond_json_and_errors_are_the_same_beside_a_long_text() -> None:
    serializer = JsonSerializer()
    serializer.dumps("x" * LONG)
    assert serializer.loads(serializer.dumps(["x" * LONG, b"raw"])) == ["x" * LONG, b"raw"]
    serializer.dumps("x" * LONG)
    with pytest.raises(errors.EncodeError, match="cannot be JSON"):
        serializer.dumps(["x" * LONG, object()])
    around: list[Any] = ["x" * LONG]
    around.append(around)
    serializer.dumps("x" * LONG)
    with pytest.raises(errors.EncodeError):
        serializer.dumps(around)


def test_only_the_first_few_values_near_the_top_are_looked_at() -> None:
    long = "x" * LONG
    assert has_long_text(([1, long], {}, {}))
    assert has_long_text(([], {"a": long}, {}))
    assert not has_long_text([[[[long]]]])
    assert not has_long_text([*range(100), long])
