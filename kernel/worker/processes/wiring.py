"""The descriptors that the engine's processes share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Wiring:
    """Numbers of descriptors, which stay the same across fork and exec."""

    control: int
    inbox: int
    outbox: int
    page: int
    alive: int
    engine_pid: int

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.control, self.inbox, self.outbox, self.page, self.alive)
