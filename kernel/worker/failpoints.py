"""Named points at which a test may kill, freeze, delay or fail this process.

``KERNEL_FAILPOINTS="result.stored=kill@3,settle.sent=sleep:0.5"`` arms two of them: the first kills the process
(SIGKILL) the third time it is reached, the second sleeps half a second each time. Actions: ``kill``, ``stop``
(SIGSTOP), ``exit``, ``raise``, ``sleep:SECONDS``. ``NAME=ACTION%P`` acts with a probability of P percent.
The variable is read where a process starts; without it the object is false, and a point costs one test.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kernel import errors

VARIABLE = "KERNEL_FAILPOINTS"


@dataclass(slots=True)
class _Point:
    action: Callable[[], None]
    at: int | None
    percent: float
    hits: int = 0


class Failpoints:
    """The armed points of one process."""

    __slots__ = ("_points",)

    def __init__(self, specification: str = "") -> None:
        self._points: dict[str, _Point] = {}
        for item in filter(None, (part.strip() for part in specification.split(","))):
            name, _, rest = item.partition("=")
            self._points[name] = _parse(item, rest)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Failpoints:
        return cls(environment.get(VARIABLE, ""))

    def __bool__(self) -> bool:
        return bool(self._points)

    def hit(self, name: str) -> None:
        """Act if `name` is armed and due."""
        point = self._points.get(name)
        if point is None:
            return
        point.hits += 1
        if point.at is not None and point.hits != point.at:
            return
        if point.percent < 100 and random.random() * 100 >= point.percent:
            return
        point.action()


def _parse(item: str, rest: str) -> _Point:
    percent, at = 100.0, None
    if "%" in rest:
        rest, _, share = rest.partition("%")
        percent = float(share)
    if "@" in rest:
        rest, _, count = rest.partition("@")
        at = int(count)
    word, _, argument = rest.partition(":")
    actions: dict[str, Callable[[], None]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "exit": lambda: os._exit(70),
        "raise": _fail,
        "sleep": lambda: time.sleep(float(argument or 1)),
    }
    if word not in actions:
        raise errors.ImproperlyConfigured(
            f"{VARIABLE}: {item!r} asks for {word!r}; known actions are {', '.join(sorted(actions))}"
        )
    return _Point(actions[word], at, percent)


def _fail() -> None:
    raise errors.OperationalError("failpoint")
