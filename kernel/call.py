"""`Call`: one call on its way to a message, and what its points in time mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kernel.options import Expiry

if TYPE_CHECKING:
    from kernel.signature import Signature

NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
# What Celery refuses; a countdown further back is a mistake of units.
_LEAST_COUNTDOWN: Final = -2147483648


class Call:
    """A call of the task `name`.

    `options` are those of `apply_async`; they win over the task's own. Without `task_id` it gets a new one.
    Without `root_id` and `parent_id` it belongs to the task that runs in this context, if any; `detached`
    keeps it from that. `redelivered` marks a publication that may have been made before.
    """

    __slots__ = (
        "args",
        "detached",
        "kwargs",
        "name",
        "options",
        "parent_id",
        "redelivered",
        "root_id",
        "task_id",
    )

    def __init__(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = NO_OPTIONS,
        options: Mapping[str, Any] = NO_OPTIONS,
        *,
        task_id: str | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        redelivered: bool = False,
        detached: bool = False,
    ) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.task_id = task_id
        self.root_id = root_id
        self.parent_id = parent_id
        self.redelivered = redelivered
        self.detached = detached

    @classmethod
    def from_signature(
        cls,
        signature: Signature[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        redelivered: bool = False,
        **options: Any,
    ) -> Call:
        """The call that a signature means, with `args` in front of its own unless it is immutable.

        An id that the signature was frozen with wins over `task_id`.
        """
        new_args, new_kwargs, new_options = signature.merged(args, kwargs, options)
        return cls(
            signature.task,
            new_args,
            new_kwargs,
            new_options,
            task_id=signature.id or task_id,
            root_id=root_id,
            parent_id=parent_id,
            redelivered=redelivered,
        )


def as_moment(value: datetime | str, zone: tzinfo, *, what: str) -> datetime:
    """An aware datetime from one, from a naive one (read in `zone`), or from ISO 8601 text.

    Raises TypeError or ValueError naming `what`.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            text = f"{what} is {value!r:.60}; ISO 8601 such as '2026-11-21T01:57:37+00:00' is needed"
            raise ValueError(text) from None
    if not isinstance(value, datetime):
        raise TypeError(f"{what} is {value!r:.60}; a datetime or ISO 8601 text is needed")
    return value if value.tzinfo is not None and value.utcoffset() is not None else value.replace(tzinfo=zone)


def due_moment(countdown: object, eta: datetime | str | None, zone: tzinfo, now: float) -> datetime | None:
    """When a call is due; `countdown` wins over `eta`, and neither, or 0 seconds, means at once."""
    if countdown:
        return _later(now, _seconds(countdown, "countdown"), "countdown")
    return None if eta is None else as_moment(eta, zone, what="eta")


def expiry_moment(expires: Expiry, zone: tzinfo, now: float) -> datetime:
    """`expires` as a point in time; a number means seconds from `now`. It may be in the past."""
    if isinstance(expires, timedelta):
        expires = expires.total_seconds()
    if isinstance(expires, int | float):
        return _later(now, _seconds(expires, "expires"), "expires")
    return as_moment(expires, zone, what="expires")


def iso_text(moment: datetime) -> str:
    """As Celery's peers write it: with microseconds, unless they are zero, and offset."""
    return moment.isoformat()


def _seconds(value: object, what: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is {value!r:.60}; a number of seconds is needed")
    if not math.isfinite(value) or value < _LEAST_COUNTDOWN:
        raise ValueError(f"{what} is {value!r:.60}; a finite number, of at least {_LEAST_COUNTDOWN} seconds, is needed")
    return value


def _later(now: float, seconds: float, what: str) -> datetime:
    try:
        return datetime.fromtimestamp(now + seconds, tz=UTC)
    except (OverflowError, ValueError, OSError):
        raise ValueError(f"{what} is {seconds:g} seconds, which is past the year 9999") from None
