"""The hook plugin: which session a call is to wait for."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from kernel import errors
from kernel.hooks import hookimpl
from kernel.interfaces.unit import Unit

if TYPE_CHECKING:
    from kernel.app import Kernel


class Sessions:
    """Answers `kernel_find_transaction` for sessions and connections of SQLAlchemy, synchronous and asynchronous, and
    for the registries that hand sessions out (`scoped_session`, `async_scoped_session`)."""

    @hookimpl
    def kernel_find_transaction(self, app: Kernel, given: object) -> Unit | None:
        if given is not None:
            return _unit_of(given)
        setting = app.conf.task_on_commit_session
        if setting is None:
            return None
        source = _load(setting) if isinstance(setting, str) else setting
        found = _unit_of(source)
        if found is None and callable(source):
            found = _unit_of(source())
        if found is None:
            raise errors.InvalidSetting(
                f"task_on_commit_session is {setting!r:.80}, which gives no session of SQLAlchemy; right are a "
                "scoped_session, a callable that returns the Session in use, or 'module:attribute' of one of them"
            )
        return found


def _unit_of(given: object) -> Unit | None:
    # Whoever has an object of SQLAlchemy's has imported it.
    if "sqlalchemy" not in sys.modules:
        return None
    from kernel_contrib_sqlalchemy.finding import unit_of

    return unit_of(given)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise errors.InvalidSetting(
            f"task_on_commit_session is {name!r}, which cannot be loaded: {exc}; 'module:attribute' is needed"
        ) from exc
    return found
