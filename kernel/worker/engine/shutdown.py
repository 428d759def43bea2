"""The stages of a worker's end."""

from __future__ import annotations

import enum
import time
from typing import Final

_PATIENCE: Final = 5.0


class Stage(enum.Enum):
    RUN = "run"
    WARM = "warm"
    """Claim nothing more, give back what was not started, wait for what runs."""
    SOFT = "soft"
    """As warm, for `worker_soft_shutdown_timeout` seconds; then cold."""
    COLD = "cold"
    """End what runs; its messages go back."""


_ORDER: Final = (Stage.RUN, Stage.WARM, Stage.SOFT, Stage.COLD)


class Shutdown:
    """Which stage the worker is in. `ask` may be called from a signal handler; the rest is the loop's."""

    def __init__(self, soft_timeout: float, *, on_idle: bool = False) -> None:
        self._soft_timeout = soft_timeout
        self._on_idle = on_idle
        self._asked = Stage.RUN
        self._announced = Stage.RUN
        self._cold_at: float | None = None
        self.reason = ""

    def ask(self, stage: Stage, reason: str, *, at_once: bool = False) -> None:
        """Go to `stage`, if it is a later one; to COLD through SOFT, unless `at_once`."""
        softly = self._soft_timeout > 0 and not at_once
        if stage is Stage.COLD and softly and self._asked in (Stage.RUN, Stage.WARM):
            stage = Stage.SOFT
            self._cold_at = time.monotonic() + self._soft_timeout
        if _ORDER.index(stage) > _ORDER.index(self._asked):
            self._asked = stage
            self.reason = reason
            if stage is Stage.COLD:
                self._cold_at = time.monotonic()

    @property
    def stage(self) -> Stage:
        if self._asked is Stage.SOFT and self._cold_at is not None and time.monotonic() >= self._cold_at:
            self._asked = Stage.COLD
        return self._asked

    @property
    def lingers(self) -> bool:
        """Whether the soft stage is kept to though nothing runs (`worker_enable_soft_shutdown_on_idle`)."""
        return self._on_idle and self.stage is Stage.SOFT

    @property
    def begins(self) -> bool:
        """True once for each stage."""
        if self._announced is self.stage:
            return False
        self._announced = self.stage
        return True

    @property
    def past_patience(self) -> bool:
        """Cold for so long that what still runs will not be waited for."""
        return self.stage is Stage.COLD and self._cold_at is not None and time.monotonic() > self._cold_at + _PATIENCE
