"""`Topology`: the queues of an app, by the settings, and those that are made because somebody names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kernel.errors import ImproperlyConfigured, QueueNotFound
from kernel.interfaces.broker import BindingSpec, Bound, QueueSpec
from kernel.options import did_you_mean
from kernel.routing.exchange import Exchange, check_type
from kernel.routing.queue import Queue, as_queue, as_queues

if TYPE_CHECKING:
    from kernel.config import Settings

SETTINGS: Final = (
    "task_queues",
    "task_default_queue",
    "task_default_queue_type",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_routing_key",
    "task_create_missing_queues",
    "task_create_missing_queue_type",
    "task_create_missing_queue_exchange_type",
    "task_queue_max_priority",
)
"""The settings that a topology is made from."""

DIRECT: Final = "C.dq2"
"""The exchange of queues that belong to one worker alone."""
_MOST: Final = 10_000


class Topology:
    """What the settings say of queues, at the time it is made. Raises `ImproperlyConfigured` for what cannot be.

    `defined` are the queues of `task_queues`, or the default one; others are made when they are named, unless
    `task_create_missing_queues` is off. Usable from any thread.
    """

    def __init__(self, conf: Settings) -> None:
        self.default_name: str = conf.task_default_queue
        self._creates: bool = conf.task_create_missing_queues
        self._create_type: str = conf.task_create_missing_queue_type
        self._create_exchange_type = conf.task_create_missing_queue_exchange_type or "direct"
        self._max_priority: int | None = conf.task_queue_max_priority
        check_type(self._create_exchange_type, "task_create_missing_queue_exchange_type")
        self.default_exchange = Exchange(
            conf.task_default_exchange or self.default_name,
            check_type(conf.task_default_exchange_type, "task_default_exchange_type"),
        )
        self.default_key: str = conf.task_default_routing_key or self.default_name
        default = Queue(
            self.default_name,
            self.default_exchange,
            self.default_key,
            queue_arguments=_type_arguments(conf.task_default_queue_type),
        )
        self._says_type = conf.task_default_queue_type != "classic"
        given = conf.task_queues
        self.defined: dict[str, Queue] = {}
        for queue in [default] if given is None else as_queues(given):
            if queue.name in self.defined:
                raise ImproperlyConfigured(f"task_queues defines {queue.name!r} twice")
            self.defined[queue.name] = self._completed(queue)
        made = self._creates and self.default_name not in self.defined
        self._made: dict[str, Queue] = {self.default_name: default} if made else {}
        self._exchanges: dict[str, Exchange] = {}
        for queue in (*self.defined.values(), *self._made.values()):
            self._remember(queue)
        self._aliases = {queue.alias: queue.name for queue in self.defined.values() if queue.alias}

    def _completed(self, queue: Queue) -> Queue:
        """With the default exchange and routing key in place of what it does not say."""
        if queue.bindings:
            return queue
        if not queue.home.name:
            queue = replace(queue, exchange=self.default_exchange)
        if not queue.routing_key:
            queue = replace(queue, routing_key=self.default_key)
        return queue

    # --- finding --------------------------------------------------------------------------------------------

    def find(self, wanted: Any) -> Queue:
        """The queue of that name or alias, or that is given itself; made, where it is not defined.

        Raises `QueueNotFound` when it is not defined and none are to be made, TypeError for what names no queue.
        """
        if isinstance(wanted, str) and wanted:
            name = self._aliases.get(wanted, wanted)
            return self.defined.get(name) or self._made.get(name) or self._make(name)
        if isinstance(wanted, Queue) or isinstance(getattr(wanted, "name", None), str):
            return self._keep(self._completed(as_queue(wanted)))
        raise TypeError(f"queue is {wanted!r:.80}; the name of a queue, or a Queue, is needed")

    def known(self, name: str) -> Queue | None:
        """The queue of that name, if anybody has defined or named it."""
        return self.defined.get(name) or self._made.get(name)

    def _make(self, name: str) -> Queue:
        if not self._creates:
            known = {*self.defined, *self._aliases}
            raise QueueNotFound(
                f"there is no queue {name!r} and task_create_missing_queues is off{did_you_mean(name, known)} "
                f"(defined: {', '.join(sorted(known))})"
            )
        return self._keep(self.made(name))

    def made(self, name: str) -> Queue:
        """A queue as one is made that nobody has defined: bound to an exchange of its name."""
        exchange = Exchange(name, self._create_exchange_type)
        return Queue(name, exchange, name, queue_arguments=_type_arguments(self._create_type))

    def _keep(self, queue: Queue) -> Queue:
        if queue.name not in self.defined:
            # Another dictionary, for others may be looking through the old one.
            self._made = {**(self._made if len(self._made) < _MOST else {}), queue.name: queue}
            self._remember(queue)
        return queue

    def _remember(self, queue: Queue) -> None:
        for each in queue.bound:
            if each.exchange.name not in self._exchanges:
                self.note(each.exchange)

    # --- telling --------------------------------------------------------------------------------------------

    @property
    def names(self) -> frozenset[str]:
        """The queues that are defined."""
        return frozenset(self.defined)

    def consumed(self, only: Sequence[str] = (), without: Sequence[str] = ()) -> list[Queue]:
        """What a worker consumes: all that is defined, or `only` those, and none of `without`.

        Raises `QueueNotFound` as `find` does, and `ImproperlyConfigured` when nothing is left.
        """
        chosen = [self.find(name) for name in only] if only else list(self.defined.values())
        gone = {self._aliases.get(name, name) for name in without}
        unknown = gone - {queue.name for queue in chosen} - self.names
        if unknown and not self._creates:
            raise QueueNotFound(f"there is no queue {min(unknown)!r} to leave out; defined: {', '.join(self.names)}")
        left = list({queue.name: queue for queue in chosen if queue.name not in gone}.values())
        if not left:
            raise ImproperlyConfigured(
                f"no queue is left to consume: of {', '.join(queue.name for queue in chosen)}, "
                f"{', '.join(sorted(gone))} are left out"
            )
        return left

    def spec(self, name: str, *, bound: bool = False) -> QueueSpec:
        """What a broker is told of the queue of that name, known or not.

        Where its exchange has its own name it is reached without one, and the binding is left out unless `bound`.
        """
        queue = self.known(name) or self.made(name)
        spec = queue.spec(self._max_priority)
        if not bound:
            needed = tuple(each for each in spec.bindings if not _is_own(queue, each))
            spec = replace(spec, bindings=needed)
        if self._says_type and "x-queue-type" not in spec.arguments:
            # The driver knows the type of the default queue, and takes it for that of every other.
            spec = replace(spec, arguments={**spec.arguments, "x-queue-type": "classic"})
        return spec

    def _all(self) -> Iterable[Queue]:
        return (*self.defined.values(), *self._made.values())

    def bound_to(self, exchange: str) -> list[Queue]:
        """The queues that are bound to an exchange of that name."""
        return [queue for queue in self._all() if any(each.exchange.name == exchange for each in queue.bound)]

    def bindings(self, exchange: str) -> list[Bound]:
        """The bindings to it; the copies of each worker are nowhere among them."""
        return [
            Bound(queue.name, each.spec().key, each.exchange.type)
            for queue in self._all()
            if not queue.everyone
            for each in queue.bound
            if each.exchange.name == exchange
        ]

    def exchange(self, name: str) -> Exchange | None:
        """The exchange of that name, where a queue is bound to it or a call has said what it is."""
        return self._exchanges.get(name)

    def note(self, exchange: Exchange) -> Exchange:
        """Remember what an exchange is."""
        if len(self._exchanges) >= 2 * _MOST:
            self._exchanges = {each.exchange.name: each.exchange for queue in self._all() for each in queue.bound}
        self._exchanges[exchange.name] = exchange
        return exchange


def _is_own(queue: Queue, binding: BindingSpec) -> bool:
    return (binding.exchange.name, binding.exchange.type, binding.routing_key) == (queue.name, "direct", queue.name)


def _type_arguments(kind: str) -> Mapping[str, Any]:
    return {"x-queue-type": "quorum"} if kind == "quorum" else {}


def worker_direct(hostname: str | Queue) -> Queue:
    """The queue of one worker alone, by its node name (``name@host``), where `worker_direct` is on."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(f"{hostname}.dq2", Exchange(DIRECT), hostname)
