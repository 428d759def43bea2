"""Kinds of values that options take: JSON, durations, points in time."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from kernel.config.values import seconds


class JsonText(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """JSON of one type."""

    name = "JSON"

    def __init__(self, kind: type, words: str) -> None:
        self.kind = kind
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            data = json.loads(value)
        except ValueError as exc:
            self.fail(f"{value!r} is not JSON ({exc}); it takes {self.words}", param, ctx)
        if not isinstance(data, self.kind):
            self.fail(f"{value!r} is a JSON {type(data).__name__}; it takes {self.words}", param, ctx)
        return data


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Seconds, as a number or as ``5m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds(value)
        except (TypeError, ValueError) as exc:
            self.fail(f"{value!r} is {exc}; it takes seconds, or a text such as 5m", param, ctx)


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A point in time in ISO 8601."""

    name = "ISO time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-01-31T18:00:00+01:00", param, ctx)


class Expiry(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A duration, or a point in time."""

    name = "duration or ISO time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        try:
            return seconds(value)
        except (TypeError, ValueError):
            return Moment().convert(value, param, ctx)
