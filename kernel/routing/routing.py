"""`Routing`: the queues and the routes of an app, as its settings are at the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel.config import version
from kernel.routing.address import Address, address_of, layered
from kernel.routing.router import Router
from kernel.routing.topology import Topology

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.extensions import Extensions


class _Made(NamedTuple):
    version: object
    topology: Topology
    router: Router


class Routing:
    """Made anew when the settings change. Usable from any thread."""

    def __init__(self, conf: Settings, extensions: Extensions) -> None:
        self._conf = conf
        self._extensions = extensions
        self._made: _Made | None = None

    def _current(self) -> _Made:
        made = self._made
        now = version(self._conf)
        if made is None or made.version is not now:
            conf = self._conf
            topology, router = Topology(conf), Router(conf.task_routes)
            # Taken before: what was changed meanwhile is seen next time.
            made = self._made = _Made(now, topology, router)
        return made

    @property
    def topology(self) -> Topology:
        """The queues. Raises `ImproperlyConfigured`."""
        return self._current().topology

    @property
    def routers(self) -> Sequence[object]:
        """Those of `task_routes`, in their order."""
        return self._current().router.routers

    def flush(self) -> None:
        """Read the settings again, which may have been changed in place."""
        self._made = None

    @property
    def fixed(self) -> bool:
        """Whether all calls of a task go the same way, unless they say otherwise themselves."""
        return self._current().router.fixed and not self._extensions.has("kernel_route")

    def find(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> Mapping[str, Any]:
        """The options that a plugin (first) or `task_routes` has for a call; empty when neither has any.

        Raises what they raise, and TypeError for an answer that is none.
        """
        route = self._extensions.decide("kernel_route", name=name, options=options)
        if route is not None:
            place = {"queue": route.queue, "exchange": route.exchange, "routing_key": route.routing_key}
            return {**route.options, **place}
        router = self._current().router
        return (router.find(name, args, kwargs, options, task) or {}) if router else {}

    def address(self, options: Mapping[str, Any]) -> Address:
        """Where a call with these options goes; raises as `address_of` does."""
        return address_of(options, self.topology)


__all__ = ["Address", "Routing", "layered"]
