"""Queues, exchanges and what the settings say of them (section 9.2 of the contract)."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kernel import Broadcast, Exchange, Queue, binding
from kernel.config import Settings
from kernel.errors import ImproperlyConfigured, QueueNotFound
from kernel.interfaces.broker import BindingSpec, BrokerCapabilities, ExchangeSpec
from kernel.routing.address import Address, address_of
from kernel.routing.consuming import Consuming, consuming
from kernel.routing.queue import as_queue, as_queues
from kernel.routing.topology import Topology, worker_direct

kombu: Any = pytest.importorskip("kombu")
common: Any = pytest.importorskip("kombu.common")

MAIL = Exchange("mail", "topic")
NEWS = Exchange("news", "fanout")


def topology(**settings: Any) -> Topology:
    return Topology(Settings(settings))


def bindings_of(queue: Queue) -> list[tuple[str, str, str]]:
    return [(each.exchange.name, each.exchange.type, each.routing_key) for each in queue.bound]


# --- what there is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        pytest.param({}, {"celery": [("celery", "direct", "celery")]}, id="9-16"),
        pytest.param({"task_default_queue": "work"}, {"work": [("work", "direct", "work")]}, id="9-16 name"),
        pytest.param(
            {
                "task_default_exchange": "tasks",
                "task_default_exchange_type": "topic",
                "task_default_routing_key": "task.#",
            },
            {"celery": [("tasks", "topic", "task.#")]},
            id="10-21 to 10-27",
        ),
        pytest.param(
            {"task_queues": [Queue("eu", MAIL, "mail.eu.#"), Queue("plain")]},
            {"eu": [("mail", "topic", "mail.eu.#")], "plain": [("celery", "direct", "celery")]},
            id="9-12 list",
        ),
        pytest.param({"task_queues": ["a", "b"]}, {n: [("celery", "direct", "celery")] for n in "ab"}, id="9-12 names"),
        pytest.param(
            {"task_queues": {"eu": {"exchange": "mail", "exchange_type": "topic", "binding_key": "mail.eu.#"}}},
            {"eu": [("mail", "topic", "mail.eu.#")]},
            id="9-12 dictionary",
        ),
        pytest.param(
            {"task_queues": {"eu": {"exchange": "mail"}, "us": {}}},
            {"eu": [("mail", "direct", "eu")], "us": [("celery", "direct", "us")]},
            id="9-12 dictionary without keys",
        ),
        pytest.param(
            {"task_queues": {"eu": {"exchange": "mail", "routing_key": "eu"}, "us": Queue("us", MAIL, "us")}},
            {"eu": [("mail", "direct", "eu")], "us": [("mail", "topic", "us")]},
            id="9-12 dictionary of both",
        ),
        pytest.param(
            {"task_queues": [Queue("two", bindings=[binding(MAIL, "a"), binding(NEWS)])]},
            {"two": [("mail", "topic", "a"), ("news", "fanout", "")]},
            id="9-14",
        ),
        pytest.param(
            {"task_queues": [kombu.Queue("eu", kombu.Exchange("mail", "topic"), "mail.eu.#"), kombu.Queue("x")]},
            {"eu": [("mail", "topic", "mail.eu.#")], "x": [("celery", "direct", "celery")]},
            id="kombu",
        ),
        pytest.param(
            {"task_queues": [kombu.Queue("two", [kombu.binding(kombu.Exchange("mail", "topic"), routing_key="a.#")])]},
            {"two": [("mail", "topic", "a.#")]},
            id="kombu, several bindings",
        ),
    ],
)
def test_the_queues_of_the_settings(settings: dict[str, Any], found: dict[str, Any]) -> None:
    made = topology(**settings)
    assert {name: bindings_of(queue) for name, queue in made.defined.items()} == found
    assert [queue.name for queue in made.consumed()] == list(found)


def test_a_broadcast_is_one_of_kombus_too() -> None:
    for given in (Broadcast("all"), common.Broadcast("all"), common.Broadcast(name="all", unique=True)):
        queue = topology(task_queues=[given]).find("all")
        assert (queue.name, queue.everyone, queue.home.type, queue.home.name) == ("all", True, "fanout", "all")
    shared = as_queue(common.Broadcast("all", queue="shared"))
    assert (shared.name, shared.everyone, shared.alias) == ("shared", False, "all")
    ours = Broadcast("all", queue="shared")
    assert (ours.name, ours.everyone, ours.alias) == ("shared", False, "all")


def test_an_alias_finds_its_queue() -> None:
    made = topology(task_queues=[Queue("long-name", alias="short")])
    assert made.find("short").name == "long-name"
    assert [queue.name for queue in made.consumed(["short"])] == ["long-name"]


def test_arguments_for_servers_that_know_them() -> None:
    queue = Queue(
        "q", MAIL, "k", max_priority=9, max_length=10, message_ttl=1.5, expires=60, queue_arguments={"x-mode": "lazy"}
    )
    spec = topology(task_queues=[queue], task_queue_max_priority=5).spec("q")
    assert spec.max_priority == 9
    assert spec.arguments == {"x-max-length": 10, "x-message-ttl": 1500, "x-expires": 60000, "x-mode": "lazy"}
    assert spec.bindings == (BindingSpec(ExchangeSpec("mail", "topic"), "k"),)
    assert topology(task_queue_max_priority=5).spec("celery").max_priority == 5
    assert topology(task_queue_max_priority=5).spec("unknown").max_priority == 5
    assert as_queue(kombu.Queue("k", max_priority=7, max_length=3)).spec().max_priority == 7


@pytest.mark.parametrize(
    ("settings", "name", "kind"),
    [
        ({}, "celery", None),
        ({"task_default_queue_type": "quorum"}, "celery", "quorum"),
        ({"task_default_queue_type": "quorum"}, "made", "classic"),
        ({"task_create_missing_queue_type": "quorum"}, "celery", None),
        ({"task_create_missing_queue_type": "quorum"}, "made", "quorum"),
    ],
)
def test_types_of_queues(settings: dict[str, Any], name: str, kind: str | None) -> None:
    assert topology(**settings).spec(name).arguments.get("x-queue-type") == kind


def test_a_queue_that_is_made_has_an_exchange_of_its_name() -> None:
    assert bindings_of(topology().find("new")) == [("new", "direct", "new")]
    made = topology(task_create_missing_queue_exchange_type="topic").find("new")
    assert bindings_of(made) == [("new", "topic", "new")]


def test_a_queue_of_its_own_exchange_needs_none_on_the_server() -> None:
    made = topology()
    assert made.spec("celery").bindings == ()
    assert made.spec("celery", bound=True).bindings == (BindingSpec(ExchangeSpec("celery"), "celery"),)


# --- what cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Exchange("mail", "tpoic"), "exchange 'mail' has the type 'tpoic'; did you mean 'topic'"),
        (lambda: Exchange(cast("Any", 3)), "name of an exchange is 3"),
        (lambda: Queue(""), "name of a queue is ''"),
        (lambda: Queue("a", max_priority=256), "255 is the most"),
        (lambda: Queue("a", message_ttl=-1), "message_ttl is -1"),
        (lambda: as_queues({"a": {"exchnage": "b"}}), r"task_queues\['a'\] has an unknown entry 'exchnage'"),
        (lambda: as_queues({"a": {"exchange": "b", "exchange_type": "ring"}}), "has the type 'ring'"),
        (lambda: as_queues([5]), "5 is no queue"),
        (lambda: topology(task_default_exchange_type="fan"), "task_default_exchange_type has the type 'fan'"),
        (lambda: topology(task_queues=["a", "a"]), "defines 'a' twice"),
        (lambda: topology(task_queues=5), "task_queues"),
        (lambda: topology(task_queues=["a"]).consumed(without=["a"]), "no queue is left to consume"),
    ],
)
def test_what_cannot_be_is_named(make: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        make()


def test_exchange_types_of_servers_are_left_to_them() -> None:
    assert Exchange("hash", "x-consistent-hash").spec().type == "x-consistent-hash"


def test_no_queue_is_made_where_none_is_to_be() -> None:
    made = topology(task_create_missing_queues=False, task_queues=["mails"])
    with pytest.raises(QueueNotFound, match=r"no queue 'mial'.*did you mean 'mails'"):
        made.find("mial")
    with pytest.raises(QueueNotFound, match="no queue 'other'"):
        made.consumed(["mails", "other"])
    with pytest.raises(QueueNotFound, match="no queue 'other' to leave out"):
        made.consumed(without=["other"])
    with pytest.raises(QueueNotFound, match="no queue 'celery'"):
        address_of({}, made)
    assert made.find("mails").name == "mails"
    assert made.find(Queue("given")).name == "given"


# --- where a call goes --------------------------------------------------------------------------------------

QUEUES = [
    Queue("celery"),
    Queue("mails", Exchange("mails"), "mails"),
    Queue("eu", MAIL, "mail.eu"),
    Queue("keyless", MAIL),
    Queue("news", NEWS),
    Broadcast("all"),
]
SEVERAL: list[Any] = [
    Queue("two", bindings=[binding(MAIL, "mail.us"), binding(NEWS)]),
    kombu.Queue("theirs", [kombu.binding(kombu.Exchange("mail", "topic"), routing_key="mail.at")]),
]


@pytest.mark.parametrize(
    ("options", "address"),
    [
        pytest.param({}, Address("celery"), id="9-16 default"),
        pytest.param({"queue": "mails"}, Address("mails"), id="9-17 direct"),
        pytest.param({"queue": "mails", "routing_key": "other"}, Address("mails"), id="9-17 a key alone"),
        pytest.param({"queue": "mails", "exchange": "mails"}, Address("mails"), id="9-17 an exchange alone"),
        pytest.param({"exchange": "mails", "routing_key": "mails"}, Address("celery", "mails", "mails"), id="both"),
        pytest.param({"queue": "eu"}, Address("eu", "mail", "mail.eu"), id="9-9 topic"),
        pytest.param({"queue": "eu", "routing_key": "mail.x"}, Address("eu", "mail", "mail.x"), id="9-9 own key"),
        pytest.param({"queue": "keyless"}, Address("keyless", "mail", "celery"), id="9-9 default key"),
        pytest.param(
            {"exchange": "mail", "routing_key": "mail.x"}, Address("celery", "mail", "mail.x"), id="known exchange"
        ),
        pytest.param({"exchange": "mail"}, Address("celery", "mail", ""), id="a known topic exchange without a key"),
        pytest.param({"queue": "news"}, Address("news", "news", "celery"), id="fanout"),
        pytest.param({"queue": "all"}, Address("all", "all", "celery"), id="9-23"),
        pytest.param({"queue": "all", "exchange": "all"}, Address("all", "all", ""), id="9-23 as written there"),
        pytest.param({"queue": "two"}, Address("two"), id="9-14 several bindings"),
        pytest.param({"queue": "two", "routing_key": "mail.us"}, Address("two"), id="9-14 a key alone"),
        pytest.param({"queue": "theirs"}, Address("theirs"), id="9-14 kombu"),
        pytest.param({"queue": QUEUES[2]}, Address("eu", "mail", "mail.eu"), id="3-12 a queue itself"),
        pytest.param(
            {"queue": kombu.Queue("us", kombu.Exchange("mail", "topic"), "mail.us")},
            Address("us", "mail", "mail.us"),
            id="3-12 one of kombu's",
        ),
        pytest.param(
            {"exchange": Exchange("else", "fanout"), "routing_key": ""},
            Address("celery", "else", ""),
            id="3-13 exchange",
        ),
        pytest.param(
            {"exchange": "else", "exchange_type": "topic", "routing_key": "k"},
            Address("celery", "else", "k"),
            id="3-13",
        ),
    ],
)
def test_addresses(options: dict[str, Any], address: Address) -> None:
    assert address_of(options, topology(task_queues=[*QUEUES, *SEVERAL])) == address


def test_the_exchange_says_whether_messages_are_kept_on_disk() -> None:
    made = topology(task_queues=[Queue("brief", Exchange("brief", delivery_mode="transient"))])
    assert address_of({"queue": "brief"}, made).delivery_mode == "transient"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"queue": 5}, TypeError, "queue is 5"),
        ({"routing_key": 5}, TypeError, "routing_key is 5"),
        ({"exchange": "x", "exchange_type": "ring", "routing_key": "k"}, ValueError, "has the type 'ring'"),
        ({"exchange": 5, "routing_key": "k"}, ValueError, "5 is no exchange"),
    ],
)
def test_addresses_that_cannot_be(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        address_of(options, topology())


# --- what a worker does -------------------------------------------------------------------------------------

PLAIN = BrokerCapabilities()
ROUTES = BrokerCapabilities(exchanges=True)
DEAF = BrokerCapabilities(keeps_fanouts=False)


def of(capabilities: BrokerCapabilities, *only: str, without: tuple[str, ...] = (), direct: bool = False) -> Consuming:
    made = topology(task_queues=QUEUES)
    return consuming(made, made.consumed(only, without), "w@h", capabilities, direct=direct)


def test_all_queues_that_are_defined_or_those_that_are_named() -> None:
    assert of(PLAIN).names == ["celery", "mails", "eu", "keyless", "news", "bcast.w@h.all"]
    assert of(PLAIN, "eu", "mails").names == ["eu", "mails"]
    assert of(PLAIN, "eu", "new").names == ["eu", "new"]
    assert of(PLAIN, without=("eu", "all", "unknown")).names == ["celery", "mails", "keyless", "news"]


def test_copies_for_everyone_have_a_queue_of_the_worker() -> None:
    plain, routes = of(PLAIN, "all"), of(ROUTES, "all")
    assert plain.heard == {"all": ["bcast.w@h.all"]}
    assert plain.declared[0].bindings == ()
    assert routes.heard == {}
    (spec,) = routes.declared
    assert spec.bindings == (BindingSpec(ExchangeSpec("all", "fanout"), "celery"),)
    assert (spec.name, spec.arguments["x-expires"], spec.auto_delete) == ("bcast.w@h.all", 60000, False)


def test_where_a_fanout_is_not_kept_each_worker_listens() -> None:
    assert of(PLAIN, "news").heard == {}
    found = of(DEAF, "news")
    assert found.names == ["news", "bcast.w@h.news"]
    assert found.heard == {"news": ["bcast.w@h.news"]}


def test_a_worker_may_have_a_queue_of_its_own() -> None:
    found = of(PLAIN, "eu", direct=True)
    assert found.names == ["eu", "w@h.dq2"]
    assert found.declared[1] == worker_direct("w@h").spec()
    assert found.declared[1].bindings == (BindingSpec(ExchangeSpec("C.dq2"), "w@h"),)
    assert worker_direct(worker_direct("w@h")) == worker_direct("w@h")


def test_it_travels_as_json() -> None:
    import json

    found = of(ROUTES, direct=True)
    assert Consuming.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_call_does_not_change_what_an_exchange_is() -> None:
    made = topology(task_queues=QUEUES)
    address_of({"exchange": "mail", "exchange_type": "direct", "routing_key": "k"}, made)
    address_of({"exchange": Exchange("news", "topic"), "routing_key": "k"}, made)
    assert (made.exchange("mail"), made.exchange("news")) == (MAIL, NEWS)
    address_of({"exchange": "else", "exchange_type": "topic", "routing_key": "k"}, made)
    assert made.exchange("else") == Exchange("else", "topic")
    assert made.exchange("nobody") is None
