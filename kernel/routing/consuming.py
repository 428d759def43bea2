"""`Consuming`: what a worker declares, claims and listens to, by the queues that it consumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from kernel.interfaces.broker import BindingSpec, BrokerCapabilities, ExchangeSpec, QueueSpec
from kernel.routing.queue import PRIVATE, Queue
from kernel.routing.topology import worker_direct

if TYPE_CHECKING:
    from kernel.routing.topology import Topology

_UNUSED_SECONDS: Final = 60.0
"""How long a server that can delete queues keeps the copies of a worker that is gone."""


@dataclass(slots=True)
class Consuming:
    """`declared` are the queues, with what they are bound to; all of them are claimed from. What comes in on a topic
    of `heard` is put into the queues of those names, which are this worker's alone."""

    declared: list[QueueSpec] = field(default_factory=list)
    heard: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The queues to claim from."""
        return [spec.name for spec in self.declared]

    def to_json(self) -> dict[str, Any]:
        return {"declared": [asdict(spec) for spec in self.declared], "heard": self.heard}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Consuming:
        return cls([_spec(each) for each in values["declared"]], dict(values["heard"]))


def consuming(
    topology: Topology, queues: Sequence[Queue], hostname: str, capabilities: BrokerCapabilities, *, direct: bool
) -> Consuming:
    """What the worker `hostname` does for `queues` on a broker that can do this; with `direct` it has a queue of its
    own, too."""
    found = Consuming()
    for queue in queues:
        if queue.everyone:
            _add_copies(found, queue, hostname, capabilities)
            continue
        found.declared.append(topology.spec(queue.name, bound=not capabilities.exchanges))
        if not capabilities.exchanges and not capabilities.keeps_fanouts and _fanouts(queue):
            _add_copies(found, queue, hostname, capabilities)
    if direct:
        found.declared.append(worker_direct(hostname).spec())
    return found


def _add_copies(found: Consuming, queue: Queue, hostname: str, capabilities: BrokerCapabilities) -> None:
    """A queue of this worker alone for its copies of what is sent to all. It has the node's name, so that one that
    starts again finds what it had not done yet."""
    name = f"{PRIVATE}.{hostname}.{queue.name}"
    if not capabilities.exchanges:
        found.declared.append(QueueSpec(name))
        for topic in _fanouts(queue):
            found.heard.setdefault(topic, []).append(name)
        return
    expires = queue.expires if queue.expires is not None else _UNUSED_SECONDS
    spec = replace(queue, name=name, expires=expires, auto_delete=False, exclusive=False).spec()
    found.declared.append(spec)


def _fanouts(queue: Queue) -> list[str]:
    return [each.exchange.name for each in queue.bound if each.exchange.type == "fanout"]


def _spec(values: Mapping[str, Any]) -> QueueSpec:
    bindings = tuple(
        BindingSpec(ExchangeSpec(**each["exchange"]), each["routing_key"], each["arguments"])
        for each in values["bindings"]
    )
    return QueueSpec(**{**values, "bindings": bindings})
