"""A look at the result backend when a worker starts, so that a wrong address is known before the first task ends."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kernel import drivers, errors
from kernel.naming import new_id

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend

_log: Final = logging.getLogger("kernel.worker")


def look(app: Kernel) -> None:
    """On a thread, with a connection of its own: nobody waits for it, and the log says what is wrong, once.

    A backend that is where the broker is needs no look, unless it has tables to make.
    """
    if app.backend_url is not None and (app.backend_url != app.addresses.broker_url() or _makes_tables(app)):
        threading.Thread(target=_look, args=(app,), name="kernel-lookout", daemon=True).start()


def _makes_tables(app: Kernel) -> bool:
    if not app.conf.database_create_tables_at_setup:
        return False
    driver = drivers.load("backends", app.backend_url or "", choices=app.conf.drivers)
    return any(setting.name == "database_create_tables_at_setup" for setting in driver.settings)


def _look(app: Kernel) -> None:
    try:
        problem = _problem(app)
    except Exception as exc:  # a driver of anyone's
        _log.warning("the result backend could not be looked at: %r", exc)
        return
    if problem is not None:
        level = logging.ERROR if isinstance(problem, errors.ImproperlyConfigured) else logging.WARNING
        _log.log(level, "results cannot be stored now, and what ends will wait until they can: %s", problem)


def _problem(app: Kernel) -> errors.KernelError | None:
    config = app.addresses.backend_config()
    if config is None:
        return None
    driver = drivers.load("backends", config.url, choices=app.conf.drivers)
    if driver.capabilities.to_caller:
        return None
    backend: Backend = driver(config)
    try:
        backend.open()
        backend.load([new_id()])
    except errors.KernelError as exc:
        return exc
    finally:
        with suppress(Exception):
            backend.close()
    return None
