"""Commands to running workers: `app.control`.

A command is a broadcast in the layout of Celery's remote control (kombu's pidbox): a JSON object with `method`,
`arguments` and `destination`. It reaches the workers that run now; nothing is kept for those that come later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import errors
from kernel.message import Message

if TYPE_CHECKING:
    from kernel.app import Kernel

TOPIC: Final = "celery.pidbox"
_KEEP_SECONDS: Final = 300.0


class Control:
    """Sends commands. Cheap to make; raises `OperationalError` when the broker cannot be reached."""

    def __init__(self, app: Kernel) -> None:
        self._app = app

    def broadcast(
        self, command: str, arguments: dict[str, Any] | None = None, *, destination: Sequence[str] | None = None
    ) -> None:
        """Send a command to all workers, or to the nodes in `destination`."""
        if isinstance(destination, str):
            raise TypeError(f"destination is a list of node names, not the text {destination!r}")
        broker = self._app.broker
        if not broker.capabilities.broadcast:
            raise errors.ImproperlyConfigured(
                f"the broker {self._app.addresses.broker_shown} cannot broadcast, so its workers take no commands"
            )
        document = {
            "method": command,
            "arguments": arguments or {},
            "destination": list(destination) if destination is not None else None,
            "pattern": None,
            "matcher": None,
        }
        body = json.dumps(document).encode()
        headers = {"clock": 0, "expires": time.time() + _KEEP_SECONDS}
        broker.broadcast(TOPIC, [Message(headers, body, content_type="application/json")])

    def revoke(
        self,
        task_id: str | Iterable[str],
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        destination: Sequence[str] | None = None,
    ) -> None:
        """Tell the workers not to run a task, or tasks; with `terminate`, to end them if they run.

        It ends as REVOKED. A worker remembers it for as long as it runs; one that starts later does not know.
        `signal` is accepted for Celery's sake: a process is always ended by SIGKILL, and only for this task.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        self.broadcast("revoke", {"task_id": ids, "terminate": terminate, "signal": signal}, destination=destination)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
    ) -> None:
        """`revoke` of all tasks that have one of these stamps: `headers` says of names which value, or list of values.

        Raises TypeError for other than a dictionary.
        """
        if not isinstance(headers, Mapping) or not headers:
            raise TypeError(f"headers is {headers!r:.80}; a dictionary of stamps and their values is needed")
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal}
        self.broadcast("revoke_by_stamped_headers", arguments, destination=destination)

    def terminate(self, task_id: str | Iterable[str], *, destination: Sequence[str] | None = None) -> None:
        """`revoke` with `terminate`."""
        self.revoke(task_id, terminate=True, destination=destination)

    def shutdown(self, destination: Sequence[str] | None = None) -> None:
        """Ask workers to stop warm."""
        self.broadcast("shutdown", destination=destination)
