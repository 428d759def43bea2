"""A task whose time has passed is not run."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kernel import errors
from kernel.hooks import hookimpl
from kernel.interfaces.broker import Delivery
from kernel.interfaces.outcome import Admission, DeadLetter, Skip


class Expiry:
    """The plugin. `now` gives Unix seconds."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    @hookimpl
    def kernel_task_admit(self, delivery: Delivery) -> Admission | None:
        """Skip what has expired, as REVOKED with the reason ``expired``; keep what names no point in time."""
        expires = delivery.message.header("expires")
        if expires is None:
            return None
        try:
            deadline = moment(expires)
        except errors.InvalidTaskError as exc:
            return DeadLetter(str(exc))
        return Skip("expired", "REVOKED") if deadline <= self._now() else None


def moment(expires: Any) -> float:
    """The header `expires` as Unix seconds; a time without a zone is in UTC, as the message protocol has it.

    Raises `InvalidTaskError` for what is no ISO 8601 text.
    """
    try:
        if not isinstance(expires, str):
            raise ValueError("no text")
        point = datetime.fromisoformat(expires)
        return (point if point.tzinfo is not None else point.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        # The header may be anything of any size, and the text goes into logs and records.
        raise errors.InvalidTaskError(
            f"the header expires is {reprlib.repr(expires)}; right is an ISO 8601 text such as "
            "'2026-11-20T12:00:00+00:00'"
        ) from None
