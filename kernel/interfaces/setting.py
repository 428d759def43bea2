"""How a setting is declared: by the kernel, by a driver class (`settings`) or by the hook `kernel_settings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["str", "int", "float", "bool", "list", "dict", "seconds", "bytes", "any"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, the type of its values, the default, and a sentence for the documentation.

    `kind` ``seconds`` takes a number, a timedelta or a text such as ``"5m"``; ``bytes`` a number or ``"16MB"``;
    ``list`` also a text with commas. `choices` limits the values. `check` may raise ValueError with a reason.
    `served` is False for a setting of Celery's that is accepted and kept but has no effect yet.
    """

    name: str
    kind: Kind
    default: Any
    doc: str
    optional: bool = False
    choices: tuple[Any, ...] = ()
    check: Callable[[Any], object] | None = None
    served: bool = True
    secret: bool = False
