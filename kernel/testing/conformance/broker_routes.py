"""Broker cases: exchanges and bindings, of those that route and of those that only remember."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kernel.interfaces.broker import (
    Bindings,
    BindingSpec,
    Bound,
    Broker,
    Exchanges,
    ExchangeSpec,
    PublishState,
    QueueSpec,
)
from kernel.message import Publication
from kernel.routing.match import headers_match
from kernel.testing.conformance.broker_kit import AMPLE, BrokerKit, make_message, numbers


class RouteCases(BrokerKit):
    def bound(self, broker: Broker, queue: str, *bindings: tuple[ExchangeSpec, str]) -> str:
        broker.declare([QueueSpec(queue, [BindingSpec(exchange, key) for exchange, key in bindings])])
        return queue

    @pytest.mark.parametrize(
        ("kind", "first", "second", "key", "takers"),
        [
            ("direct", "a", "b", "a", (0,)),
            ("direct", "a", "a", "a", (0, 1)),
            ("direct", "a.*", "a.b", "a.b", (1,)),
            ("topic", "a.*", "a.#", "a.b", (0, 1)),
            ("topic", "a.*", "a.#", "a.b.c", (1,)),
            ("topic", "a.*", "#", "b", (1,)),
            ("fanout", "a", "b", "c", (0, 1)),
        ],
    )
    def test_exchanges_route(
        self,
        broker: Broker,
        queue: str,
        other: str,
        kind: str,
        first: str,
        second: str,
        key: str,
        takers: tuple[int, ...],
    ) -> None:
        self.needs(broker, "exchanges")
        exchange = ExchangeSpec(f"{queue}-exchange", kind)
        queues = [self.bound(broker, queue, (exchange, first)), self.bound(broker, other, (exchange, second))]
        item = Publication(make_message(n=7), queue, exchange=exchange.name, routing_key=key)
        assert [outcome.state for outcome in broker.publish([item])] == [PublishState.STORED]
        for at, name in enumerate(queues):
            consumer = self.consume(broker, name)
            if at in takers:
                assert numbers(self.gather(consumer, 1)) == [7]
            else:
                assert self.nothing(consumer)

    def test_headers_exchanges_ask_the_headers(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        exchange = ExchangeSpec(f"{queue}-exchange", "headers")
        wanted: tuple[dict[str, Any], ...] = (
            {"a": 1, "b": "x"},
            {"x-match": "any", "a": 1, "b": "x"},
            {"x-match": "any-with-x", "x-a": 1, "b": "y"},
            {"x-a": 2},
        )
        sent: tuple[dict[str, Any], ...] = ({"a": 1, "b": "x"}, {"a": True, "b": "x"}, {"b": "y"}, {"x-a": 1, "a": "1"})
        for at, arguments in enumerate(wanted):
            broker.declare([QueueSpec(f"{queue}-{at}", [BindingSpec(exchange, "", arguments)])])
        messages = [make_message(n=n, **headers) for n, headers in enumerate(sent)]
        broker.publish([Publication(message, queue, exchange=exchange.name, routing_key="k") for message in messages])
        for at, arguments in enumerate(wanted):
            takes = [n for n, headers in enumerate(sent) if headers_match(arguments, headers)]
            consumer = self.consume(broker, f"{queue}-{at}")
            assert sorted(numbers(self.gather(consumer, len(takes)))) == takes
            assert self.nothing(consumer)

    def test_one_binding_among_several_is_enough(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        one, two = ExchangeSpec(f"{queue}-one", "topic"), ExchangeSpec(f"{queue}-two")
        self.bound(broker, queue, (one, "a.#"), (one, "#.b"), (two, "k"))
        places = [(one.name, "a.b"), (two.name, "k")]
        broker.publish(
            [
                Publication(make_message(n=n), queue, exchange=name, routing_key=key)
                for n, (name, key) in enumerate(places)
            ]
        )
        consumer = self.consume(broker, queue)
        assert sorted(numbers(self.gather(consumer, 2))) == [0, 1]
        assert self.nothing(consumer)

    def test_what_no_queue_takes_is_refused_alone(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        exchange = ExchangeSpec(f"{queue}-exchange")
        self.bound(broker, queue, (exchange, "k"))
        states = [
            outcome.state
            for outcome in broker.publish(
                [
                    Publication(make_message(n=1), queue, exchange=exchange.name, routing_key="k"),
                    Publication(make_message(n=2), queue, exchange=exchange.name, routing_key="nobody"),
                    Publication(make_message(n=3), queue),
                ]
            )
        ]
        assert states == [PublishState.STORED, PublishState.REFUSED, PublishState.STORED]
        assert sorted(numbers(self.gather(self.consume(broker, queue), 2))) == [1, 3]

    def test_an_exchange_that_is_not_there_is_refused_alone(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        missing = Publication(make_message(n=2), queue, exchange=f"{queue}-missing", routing_key="k")
        batch = [Publication(make_message(n=1), queue), missing, Publication(make_message(n=3), queue)]
        states = [outcome.state for outcome in broker.publish(batch)]
        assert states == [PublishState.STORED, PublishState.REFUSED, PublishState.STORED]
        # The server may not say which one it means; then what stood before it may be sent again.
        consumer, found = self.consume(broker, queue), set[int]()
        deadline = time.monotonic() + self.patience
        while found != {1, 3} and time.monotonic() < deadline:
            found.update(numbers(consumer.fetch(10, AMPLE, 0.5)))
        assert found == {1, 3}

    def test_that_nobody_listens_to_a_fanout_is_no_error(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        assert isinstance(broker, Exchanges)
        broker.declare_exchanges([ExchangeSpec(f"{queue}-all", "fanout")] * 2)
        (outcome,) = broker.publish([Publication(make_message(), queue, exchange=f"{queue}-all", routing_key="k")])
        assert outcome.state is PublishState.STORED

    def test_declaring_an_exchange_otherwise_changes_nothing(self, broker: Broker, queue: str) -> None:
        self.needs(broker, "exchanges")
        self.bound(broker, queue, (ExchangeSpec(f"{queue}-exchange", "topic"), "a.#"))
        self.bound(broker, queue, (ExchangeSpec(f"{queue}-exchange", "direct"), "b"))
        broker.publish([Publication(make_message(n=1), queue, exchange=f"{queue}-exchange", routing_key="a.x")])
        assert numbers(self.gather(self.consume(broker, queue), 1)) == [1]

    def test_bindings_are_remembered(self, broker: Broker, queue: str, other: str) -> None:
        if not isinstance(broker, Bindings):
            pytest.skip("this broker remembers no bindings")
        topic, direct = ExchangeSpec(f"{queue}-topic", "topic"), ExchangeSpec(f"{queue}-direct")
        for _ in range(2):
            self.bound(broker, queue, (topic, "a.#"), (direct, "k"))
            self.bound(broker, other, (topic, "a.*"))
        broker.declare([QueueSpec(queue)])
        found = sorted(broker.bindings(topic.name), key=lambda bound: bound.routing_key)
        assert found == [Bound(queue, "a.#", "topic"), Bound(other, "a.*", "topic")]
        assert [*broker.bindings(direct.name)] == [Bound(queue, "k", "direct")]
        assert [*broker.bindings(f"{queue}-unknown")] == []

    def test_bindings_to_headers_exchanges_are_remembered_with_their_arguments(
        self, broker: Broker, queue: str, other: str
    ) -> None:
        if not isinstance(broker, Bindings):
            pytest.skip("this broker remembers no bindings")
        exchange = ExchangeSpec(f"{queue}-headers", "headers")
        specs = [
            BindingSpec(exchange, "", arguments) for arguments in ({"x-match": "any", "a": 1, "b": "☃"}, {"c": None})
        ]
        broker.declare([QueueSpec(queue, specs)])
        broker.declare([QueueSpec(other, specs[:1])])
        found = {(bound.queue, bound.routing_key, bound.type) for bound in broker.bindings(exchange.name)}
        one, two = (spec.key for spec in specs)
        assert found == {(queue, one, "headers"), (queue, two, "headers"), (other, one, "headers")}

    def test_bindings_are_remembered_for_others(self, broker: Broker, twin: Broker, queue: str) -> None:
        if not isinstance(twin, Bindings):
            pytest.skip("this broker remembers no bindings")
        exchange = ExchangeSpec(f"žluť {queue}")
        self.bound(broker, queue, (exchange, "k ☃"))
        assert [*twin.bindings(exchange.name)] == [Bound(queue, "k ☃", "direct")]

    def test_who_listens_to_a_topic_hears_what_has_a_routing_key(self, broker: Broker, queue: str) -> None:
        if broker.capabilities.keeps_fanouts:
            pytest.skip("this broker keeps what is sent to all")
        subscription = broker.subscribe(f"{queue}[1]*")
        broker.broadcast(f"{queue}[1]*/a.b", [make_message(n=1)])
        broker.broadcast(f"{queue}1x/a.b", [make_message(n=2)])
        broker.broadcast(f"{queue}[1]*", [make_message(n=3)])
        found = [*subscription.read(1, self.patience), *subscription.read(1, self.patience)]
        assert [message.headers["n"] for message in found] == [1, 3]
        subscription.close()
