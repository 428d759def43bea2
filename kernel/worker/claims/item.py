"""A claimed message in this worker, and where it is."""

from __future__ import annotations

import enum
from collections.abc import Callable

from kernel.interfaces.broker import Delivery
from kernel.worker.assignment import Assignment, Lent, Obituary


class Place(enum.Enum):
    WAITING = "waiting"
    PREPARING = "preparing"
    """With the pump: its start is recorded, or it is acknowledged early."""
    SENT = "sent"
    SETTLING = "settling"


class Item:
    """A claimed message in this worker."""

    __slots__ = (
        "acked",
        "alone",
        "attempts",
        "delivery",
        "early_ack",
        "epoch",
        "hard",
        "id",
        "is_prepared",
        "joined",
        "lent",
        "lost",
        "name",
        "obituary",
        "place",
        "revoked",
        "sent_alone",
        "seq",
        "soft",
        "unsure",
        "vanished",
    )

    def __init__(self, seq: int, delivery: Delivery, *, id: str = "", name: str = "") -> None:
        self.seq = seq
        self.delivery = delivery
        self.id = id
        self.name = name
        self.place = Place.WAITING
        self.epoch = 0
        self.sent_alone = False
        self.soft: float | None = None
        self.hard: float | None = None
        self.early_ack = False
        self.is_prepared = False
        self.acked = False
        self.joined = False
        """It has ended, and what follows for its chord is still to be worked out and settled."""
        self.lost = False
        """What runs was told that its lease is gone."""
        self.obituary: Obituary | None = None
        self.attempts = 0
        """How many children died over it in this worker, after its end was decided."""
        self.lent: Lent | None = None
        self.unsure = False
        """He has tried to settle it, and may have done it."""
        self.revoked = False
        self.alone = False
        """Not to be sent together with others: that has failed."""
        self.vanished = 0
        """How many children took it and died before they announced it."""

    def assignment(self, valid: Callable[[], bool] | None = None) -> Assignment:
        """What an executor is given of it."""
        delivery = self.delivery
        return Assignment(
            self.seq,
            delivery.message,
            delivery.queue,
            delivery.token,
            starts=delivery.starts,
            seen=delivery.seen,
            early_ack=self.early_ack,
            obituary=self.obituary,
            joined=self.joined,
            valid=valid,
        )
