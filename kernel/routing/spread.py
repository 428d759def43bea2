"""`spread`: from messages for exchanges to messages for queues, where the broker has no exchanges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel.interfaces.broker import STORED, Bindings, Exchanges, PublishOutcome, PublishState
from kernel.routing.exchange import Exchange, as_exchange
from kernel.routing.match import KNOWN, queues_for

if TYPE_CHECKING:
    from kernel.interfaces.broker import Bound
    from kernel.message import Publication
    from kernel.routing.topology import Topology

_WORST_FIRST: Final = (PublishState.REFUSED, PublishState.UNKNOWN)

Send = Callable[[Sequence["Publication"]], Sequence[PublishOutcome]]


def publish(broker: Any, batch: Sequence[Publication], topology: Topology, send: Send) -> list[PublishOutcome]:
    """Have `send` store the messages of `batch`, some of which go to exchanges; one outcome for each.

    A message that no queue takes is refused, save for one to a fanout exchange: that nobody listens is no error.
    Raises `OperationalError`.
    """
    plain: list[Publication] = []
    owners: list[int] = []
    refusals: dict[int, str] = {}
    for at, copies in enumerate(_copies(broker, batch, topology)):
        if isinstance(copies, str):
            refusals[at] = copies
            continue
        plain += copies
        owners += [at] * len(copies)
    outcomes = [STORED] * len(batch)
    for at, outcome in zip(owners, send(plain) if plain else (), strict=True):
        if _rank(outcome) < _rank(outcomes[at]):
            outcomes[at] = outcome
    for at, why in refusals.items():
        outcomes[at] = PublishOutcome(PublishState.REFUSED, why)
    return outcomes


def routes(broker: Any) -> bool:
    """Whether it takes messages for exchanges; what is no broker but a sender of another library does."""
    capabilities = getattr(broker, "capabilities", None)
    return capabilities is None or bool(capabilities.exchanges)


def _rank(outcome: PublishOutcome) -> int:
    return _WORST_FIRST.index(outcome.state) if outcome.state in _WORST_FIRST else len(_WORST_FIRST)


def _copies(broker: Any, batch: Sequence[Publication], topology: Topology) -> list[Sequence[Publication] | str]:
    """For each its copies, or why there are none. Raises `OperationalError`."""
    known: dict[str, list[Bound]] = {}
    found: list[Sequence[Publication] | str] = []
    for item in batch:
        if not item.exchange:
            found.append((item,))
            continue
        if item.exchange not in known:
            known[item.exchange] = _bindings(broker, item.exchange, topology)
        found.append(_to_queues(broker, item, known[item.exchange], topology))
    return found


def _bindings(broker: Any, exchange: str, topology: Topology) -> list[Bound]:
    """Ours, and what others have told the broker."""
    own = topology.bindings(exchange)
    others = broker.bindings(exchange) if isinstance(broker, Bindings) else ()
    return list(dict.fromkeys([*own, *others]))


def _to_queues(
    broker: Any, item: Publication, bindings: Sequence[Bound], topology: Topology
) -> Sequence[Publication] | str:
    exchange = topology.exchange(item.exchange)
    kind = exchange.type if exchange else None
    if kind is not None and kind not in KNOWN:
        return f"the exchange {item.exchange!r} is of type {kind!r}, which only a broker with exchanges can resolve"
    fanout = kind == "fanout" or (kind is None and any(bound.type == "fanout" for bound in bindings))
    if fanout:
        _tell_everyone(broker, item)
        if not broker.capabilities.keeps_fanouts:
            return ()
    kind = "fanout" if fanout else kind
    queues = queues_for(bindings, item.routing_key, kind, lambda: item.message.headers)
    if not queues and not fanout:
        what = "arguments that fit these headers" if kind == "headers" else f"a key that fits {item.routing_key!r}"
        return f"no queue is bound to the exchange {item.exchange!r} with {what}"
    return [_for_queue(item, queue) for queue in queues]


def _tell_everyone(broker: Any, item: Publication) -> None:
    """Those who listen now have it; nothing is kept for others."""
    topic = item.exchange
    if not broker.capabilities.keeps_fanouts and item.routing_key:
        topic = f"{topic}/{item.routing_key}"
    broker.broadcast(topic, [item.message])


def _for_queue(item: Publication, queue: str) -> Publication:
    one = copy.copy(item)
    one.queue, one.exchange, one.routing_key = queue, "", queue
    return one


def declare(broker: Any, batch: Sequence[Publication], topology: Topology, declared: set[str]) -> None:
    """Make the queues and exchanges of a batch exist that are not in `declared` yet, and put them there.

    Raises `OperationalError`.
    """
    queues: dict[str, bool] = {}
    exchanges: set[str] = set()
    for item in batch:
        if not item.exchange:
            if item.queue not in declared:
                queues.setdefault(item.queue, False)
        elif _mark(item.exchange) not in declared:
            exchanges.add(item.exchange)
    for name in sorted(exchanges):
        queues.update({queue.name: True for queue in topology.bound_to(name) if not queue.everyone})
    everywhere = not routes(broker)
    wanted = [name for name in sorted(queues) if (known := topology.known(name)) is None or not known.no_declare]
    if wanted:
        broker.declare([topology.spec(name, bound=everywhere or queues[name]) for name in wanted])
    found = [exchange for name in sorted(exchanges) if (exchange := topology.exchange(name)) is not None]
    if found and isinstance(broker, Exchanges):
        broker.declare_exchanges([exchange.spec() for exchange in found])
    declared.update(queues, map(_mark, exchanges))


def _mark(exchange: str) -> str:
    return f"exchange {exchange}"


def declare_entities(broker: Any, entities: Iterable[Any], topology: Topology) -> None:
    """Make exist what the option `declare` of a call names: queues (or their names) and exchanges.

    Raises `OperationalError`, and what finding a queue raises.
    """
    queues: list[str] = []
    exchanges: list[Exchange] = []
    for entity in entities:
        if hasattr(entity, "type") and not hasattr(entity, "routing_key"):
            exchanges.append(as_exchange(entity))
        else:
            queues.append(topology.find(entity).name)
    if queues:
        broker.declare([topology.spec(name, bound=True) for name in queues])
    if exchanges and isinstance(broker, Exchanges):
        broker.declare_exchanges([exchange.spec() for exchange in exchanges])
