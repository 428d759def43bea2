"""A task whose time has passed is not run."""

from __future__ import annotations

import pytest

from kernel.builtin.expiry import Expiry, moment
from kernel.errors import InvalidTaskError
from kernel.interfaces.broker import Delivery
from kernel.interfaces.outcome import DeadLetter, Skip
from kernel.message import Message

NOON = 1_780_315_200.0  # 2026-06-01T12:00:00Z


def admit(headers, now=NOON):
    message = Message({"id": "1", "task": "t", **headers}, b"[]", content_type="application/json")
    return Expiry(now=lambda: now).kernel_task_admit(Delivery(message, "celery", "token"))


@pytest.mark.parametrize("headers", [{}, {"expires": None}])
def test_a_task_without_a_time_is_not_looked_at(headers):
    assert admit(headers) is None


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        ("2026-06-01T11:59:59+00:00", Skip("expired", "REVOKED")),
        ("2026-06-01T12:00:00+00:00", Skip("expired", "REVOKED")),
        ("2026-06-01T12:00:00.000001+00:00", None),
        ("2026-06-01T12:00:00.5Z", None),
        ("2026-06-01T11:59:59", Skip("expired", "REVOKED")),
        ("2026-06-01T12:00:01", None),
        ("2026-06-01T14:00:01+02:00", None),
        ("2026-06-01T13:59:59+02:00", Skip("expired", "REVOKED")),
        ("2026-06-01T06:30:00-05:30", Skip("expired", "REVOKED")),
        ("2020-01-01", Skip("expired", "REVOKED")),
    ],
)
def test_times_with_and_without_a_zone(expires, expected):
    assert admit({"expires": expires}) == expected


@pytest.mark.parametrize("expires", ["soon", "", 5, 1e400, True, [], {"a": 1}, "2026-13-01", "9999-99-99T00:00:00"])
def test_what_is_no_time_is_kept_as_a_dead_letter(expires):
    answer = admit({"expires": expires})
    assert isinstance(answer, DeadLetter)
    assert answer.reason.startswith("the header expires is ")
    assert "2026-11-20T12:00:00+00:00" in answer.reason


def test_a_hostile_header_makes_no_long_text():
    with pytest.raises(InvalidTaskError) as caught:
        moment("x" * 100_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("expires", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_ends_of_the_calendar_do_not_raise(expires):
    assert admit({"expires": expires}) is None or admit({"expires": expires}) == Skip("expired", "REVOKED")
