"""`Groups`: the results of groups, as users find them under ``app.GroupResult``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.groupresult import GroupResult
    from kernel.interfaces.backend import Backend


class Groups:
    """Makes the results of a group of this app, and finds those that were saved."""

    __slots__ = ("_app",)

    def __init__(self, app: Kernel) -> None:
        self._app = app

    def __call__(self, id: str | None = None, results: Iterable[Any] = (), parent: Any = None) -> GroupResult:
        """The results of a group, under its id."""
        from kernel import groupresult

        return groupresult.GroupResult(id, results, parent, app=self._app)

    def restore(self, id: str, backend: Backend | None = None) -> GroupResult | None:
        """The group that was saved under `id`, see `GroupResult.restore`; None when there is none."""
        from kernel import groupresult

        return groupresult.GroupResult.restore(id, backend, self._app)
