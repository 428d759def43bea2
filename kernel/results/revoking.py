"""`Revocable`: results whose tasks can be told not to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.app import Kernel


class Revocable:
    """A result of one task or of several."""

    __slots__ = ()

    @property
    def app(self) -> Kernel:
        """The app that it belongs to."""
        raise NotImplementedError

    def _revoked(self) -> str | list[str]:
        """The id or ids of its tasks that workers are to be told; none where they run here."""
        raise NotImplementedError

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers, in one command, not to run the task or the tasks; with `terminate`, to end what runs; see
        `Control.revoke`.

        `connection`, `wait` and `timeout` are there for Celery's callers: no answers are collected.
        """
        ids = self._revoked()
        if ids:
            self.app.control.revoke(ids, terminate=terminate, signal=signal or "SIGTERM")
