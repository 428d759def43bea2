"""Values: conversion, refusal, masking; and the catalogue itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kernel.config.catalogue import FIXED_WHILE_OPEN, SERVED
from kernel.config.markdown import BEGIN, END, markdown
from kernel.config.unserved import UNSERVED
from kernel.config.values import MASK, censor, coerce, mask_url, parse
from kernel.errors import InvalidSetting
from kernel.interfaces.setting import Kind, Setting


def setting(kind: Kind, **changes: Any) -> Setting:
    return Setting("thing", kind, None, "A thing.", **changes)


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        ("int", 3, 3),
        ("float", 3, 3),
        ("bool", False, False),
        ("str", "", ""),
        ("list", ["a", "b"], ("a", "b")),
        ("list", {"b", "a"}, ("a", "b")),
        ("list", "a, b,", ("a", "b")),
        ("dict", {"a": 1}, {"a": 1}),
        ("seconds", timedelta(minutes=1), 60),
        ("seconds", "1h 30m", 5400),
        ("seconds", "250ms", 0.25),
        ("seconds", "2 days", 172800),
        ("seconds", "90", 90),
        ("seconds", 1.5, 1.5),
        ("bytes", 5, 5),
        ("bytes", "16MB", 16 * 1024**2),
        ("bytes", "1.5 KiB", 1536),
        ("bytes", "2g", 2 * 1024**3),
        ("any", object, object),
    ],
)
def test_what_is_taken(kind: Kind, value: object, result: object) -> None:
    assert coerce(setting(kind), value, "here") == result


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", "3"),
        ("int", True),
        ("int", 3.5),
        ("float", "3"),
        ("float", float("nan")),
        ("bool", 1),
        ("bool", "false"),
        ("str", 3),
        ("str", None),
        ("list", 3),
        ("list", {"a": 1}),
        ("dict", [1]),
        ("seconds", -1),
        ("seconds", "-1"),
        ("seconds", ""),
        ("seconds", "5 parsecs"),
        ("seconds", "5m later"),
        ("bytes", -1),
        ("bytes", "16 apples"),
        ("bytes", 1.5),
    ],
)
def test_what_is_refused(kind: Kind, value: object) -> None:
    with pytest.raises(InvalidSetting, match=r"^thing cannot be .*: it takes .*came from here\.$"):
        coerce(setting(kind), value, "here")


def test_a_value_of_any_type_is_refused_with_what_its_check_says_alone() -> None:
    def check(value: object) -> None:
        raise ValueError("a number, or 'auto'")

    with pytest.raises(
        InvalidSetting, match=r"^thing cannot be 'x' \(a number, or 'auto'\)\. The value came from here"
    ):
        coerce(setting("any", check=check), "x", "here")


def test_none_is_for_optional_settings() -> None:
    assert coerce(setting("int", optional=True), None, "here") is None
    assert parse(setting("int", optional=True), "None", "here") is None
    assert parse(setting("str"), "none", "here") == "none"


def test_choices_and_checks() -> None:
    choice = setting("str", choices=("a", "b"))
    assert parse(choice, "A", "here") == "a"
    with pytest.raises(InvalidSetting, match="one of 'a', 'b'"):
        coerce(choice, "c", "here")

    def check(value: int) -> None:
        if value > 3:
            raise ValueError("three at most")

    with pytest.raises(InvalidSetting, match="three at most"):
        coerce(setting("int", check=check), 4, "here")


def test_a_refused_secret_is_not_shown() -> None:
    with pytest.raises(InvalidSetting) as caught:
        coerce(setting("int", secret=True), "hush", "here")
    assert "hush" not in str(caught.value)
    with pytest.raises(InvalidSetting) as caught:
        coerce(setting("int"), "redis://me:hush@host", "here")
    assert "hush" not in str(caught.value)


def test_a_refused_dictionary_hides_its_passwords() -> None:
    with pytest.raises(InvalidSetting) as caught:
        coerce(setting("list"), {"password": "hush", "port": 3}, "here")
    assert "hush" not in str(caught.value)
    assert "'port': 3" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host/1", "redis://host/1"),
        ("redis://:hush@host:6379/1", f"redis://:{MASK}@host:6379/1"),
        ("postgresql+psycopg://me:hush@host/db", f"postgresql+psycopg://me:{MASK}@host/db"),
        ("amqp://a:hush@h//;amqp://b:hush@g//", f"amqp://a:{MASK}@h//;amqp://b:{MASK}@g//"),
        ("amqp://a:hu@sh@h//", f"amqp://a:{MASK}@h//"),
        ("redis://:hu/sh@host", f"redis://:{MASK}@host"),
        ("redis://host/0?password=hush&db=1", f"redis://host/0?password={MASK}&db=1"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("amqp://host:5672/a@b", "amqp://host:5672/a@b"),
        ("no url", "no url"),
    ],
)
def test_passwords_in_urls(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_censoring() -> None:
    assert censor("aws_secret", "x") == MASK
    assert censor("thing", "x", secret=True) == MASK
    assert censor("options", {"password": "x", "url": "a://b:c@d", "n": 1}) == {
        "password": MASK,
        "url": f"a://b:{MASK}@d",
        "n": 1,
    }
    assert censor("urls", ["a://b:c@d"]) == [f"a://b:{MASK}@d"]
    assert censor("redis_password", None) is None


@pytest.mark.parametrize("declared", SERVED + UNSERVED, ids=lambda declared: declared.name)
def test_defaults_are_values_of_their_settings(declared: Setting) -> None:
    assert coerce(declared, declared.default, "the catalogue") == declared.default
    assert declared.doc.endswith(".")


def test_names_are_unique() -> None:
    names = [declared.name for declared in SERVED + UNSERVED]
    assert len(names) == len(set(names))
    assert set(names) >= FIXED_WHILE_OPEN


def test_the_documentation_has_todays_tables(project_root: Path) -> None:
    text = (project_root / "docs" / "configuration.md").read_text()
    start, end = text.index(BEGIN), text.index(END) + len(END)
    assert text[start:end] == markdown(), "write `kernel config --markdown` between the two marks"
