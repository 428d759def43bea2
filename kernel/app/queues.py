"""`Queues`: the queues of an app, as users find them under ``app.amqp.queues``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel.routing.queue import Queue, as_queue, queue_from_dict

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.routing.topology import Topology


class Queues(Mapping[str, Queue]):
    """The queues that are defined, by their names. One that is not is made when it is asked for by name, where
    `task_create_missing_queues` is on.

    What is selected here is what a worker consumes that is started in this program, or by a command that imports it,
    unless ``-Q`` says otherwise.
    """

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self.selected: Sequence[str] = ()
        """The names that were selected; empty for all that are defined."""

    @property
    def _topology(self) -> Topology:
        return self._app.publisher.routing.topology

    def __getitem__(self, name: str) -> Queue:
        """Raises `QueueNotFound`, which is a KeyError."""
        return self._topology.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._topology.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._topology.defined)

    def __len__(self) -> int:
        return len(self._topology.defined)

    @property
    def consume_from(self) -> dict[str, Queue]:
        """What a worker consumes, by name."""
        return {queue.name: queue for queue in self._topology.consumed(self.selected)}

    def add(self, queue: Any, **options: Any) -> Queue:
        """Define a queue: one of ours or of kombu's, or a name with options such as `exchange`, `exchange_type` and
        `routing_key`. It becomes part of the setting `task_queues`, in place of one of its name.

        Raises `ImproperlyConfigured`.
        """
        found = queue_from_dict(queue, options) if isinstance(queue, str) else as_queue(queue)
        others = [each for each in self._topology.defined.values() if each.name != found.name]
        self._app.conf.task_queues = [*others, found]
        return self[found.name]

    def select(self, include: str | Iterable[str]) -> None:
        """Have workers consume these alone. Raises `QueueNotFound`."""
        names = [include] if isinstance(include, str) else list(include)
        self.selected = [self[name].name for name in names]

    def select_add(self, queue: Any, **options: Any) -> Queue:
        """`add`, and have workers consume it beside what they consume already."""
        before = list(self.consume_from)
        found = self.add(queue, **options)
        self.selected = [*before, found.name]
        return found

    def deselect(self, exclude: str | Iterable[str]) -> None:
        """Have workers not consume these. Raises `ImproperlyConfigured` when nothing is left."""
        names = [exclude] if isinstance(exclude, str) else list(exclude)
        self.selected = [queue.name for queue in self._topology.consumed(self.selected, names)]
