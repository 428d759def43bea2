"""Stamps: which signatures get which, how they travel, and what they survive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kernel import StampingVisitor, chain, errors, group, states
from kernel.app import Kernel
from kernel.call import Call
from kernel.canvas import xmap
from kernel.canvas.chord import chord
from kernel.signature import Signature, maybe_signature
from kernel.task import Task
from kernel.worker.engine.stamps import RevokedStamps, stamps_in
from tests.unit.executing import Bench


@pytest.fixture
def app() -> Iterator[Kernel]:
    with Kernel("test_stamping", broker="memory://", backend="memory://") as made:

        @made.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @made.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        yield made


@pytest.fixture
def add(app: Kernel) -> Task[..., Any]:
    return app.tasks["add"]


def stamps_of(signature: Signature[Any]) -> dict[str, Any]:
    options = signature.options
    return {name: options[name] for name in options.get("stamped_headers", ())}


def everywhere(signature: Any) -> list[tuple[str, dict[str, Any]]]:
    """The arguments of each signature of one call, with its stamps, links included."""
    found = maybe_signature(signature)
    rows = [] if found.composite else [(repr(tuple(found.args)), stamps_of(found))]
    for part in found.parts() if found.composite else ():
        rows += everywhere(part)
    for option in ("link", "link_error"):
        for link in found.options.get(option) or ():
            rows += everywhere(link)
    return rows


class Recorder(StampingVisitor):
    """Notes what it is asked, and stamps each signature with its task."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_signature(self, sig: Signature[Any], **headers: Any) -> Any:
        self.seen.append(f"signature {sig.task}{tuple(sig.args)}")
        return {"of": sig.task}

    def on_group_start(self, group: Signature[Any], **headers: Any) -> Any:
        self.seen.append("group")
        return {"in_group": True}

    def on_group_end(self, group: Signature[Any], **headers: Any) -> None:
        self.seen.append("group ends")

    def on_chain_start(self, chain: Signature[Any], **headers: Any) -> Any:
        self.seen.append("chain")
        return {"in_chain": True}

    def on_chain_end(self, chain: Signature[Any], **headers: Any) -> None:
        self.seen.append("chain ends")

    def on_chord_header_end(self, chord: Signature[Any], **headers: Any) -> None:
        self.seen.append("header ends")

    def on_chord_body(self, chord: Signature[Any], **headers: Any) -> Any:
        self.seen.append("body")
        return {"is_body": True}

    def on_callback(self, callback: Signature[Any], **headers: Any) -> Any:
        self.seen.append("callback")
        return {"is_callback": True}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> Any:
        self.seen.append("errback")
        return {"is_errback": True}


# --- which signatures get which -----------------------------------------------------------------------------


def test_headers_are_options_and_listed(add: Task[..., Any]) -> None:
    made = add.s(1).set(queue="q")
    assert made.stamp(customer="c", trace=7) is made
    assert made.options == {"queue": "q", "customer": "c", "trace": 7, "stamped_headers": ["customer", "trace"]}
    assert add.s(1).stamp().options == {}


@pytest.mark.parametrize(
    ("append", "value"), [(False, "new"), (True, ["new", "old"])], ids=["replaced", "collected in a list"]
)
def test_a_stamp_that_is_there(add: Task[..., Any], append: bool, value: Any) -> None:
    made = add.s(1).stamp(a="old", b=1)
    made.stamp(append_stamps=append, a="new", c=2)
    assert stamps_of(made) == {"a": value, "b": 1, "c": 2}
    many = add.s(1).stamp(a=["x", "y"])
    many.stamp(append_stamps=append, a=["z"])
    assert stamps_of(many) == {"a": ["z", "x", "y"] if append else ["z"]}


def test_calls_do_not_override_stamps(app: Kernel, add: Task[..., Any]) -> None:
    made = add.s(1).stamp(a="mine")
    call = Call.from_signature(made.clone(a="other", queue="q"), a="third", stamped_headers=["b"], b=1, priority=3)
    headers = app.publisher.prepare(call).message.headers
    assert (headers["stamped_headers"], headers["stamps"]) == (["a"], {"a": "mine"})
    assert "a" not in app.publisher.prepare(call).message.properties


def test_a_visitor_limits_which_keys_are_stamps(add: Task[..., Any]) -> None:
    class Limits(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> Any:
            return {"trace": 1, "priority": 5, "stamped_headers": ["trace"]}

    made = add.s(1).stamp(Limits(), a=2)
    assert (stamps_of(made), made.options["priority"]) == ({"a": 2, "trace": 1}, 5)


@pytest.mark.parametrize("answer", [None, {}])
def test_a_visitor_without_an_answer(add: Task[..., Any], answer: Any) -> None:
    class Silent(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> Any:
            return answer

    assert add.s(1).stamp(Silent()).options == {}
    assert stamps_of(chain(add.s(1), add.s(2)).stamp(Silent(), a=1).tasks[1]) == {"a": 1}


def test_a_visitor_must_say_what_it_does_and_answer_with_a_dictionary(add: Task[..., Any]) -> None:
    with pytest.raises(TypeError, match="on_signature"):
        StampingVisitor()  # type: ignore[abstract]

    class Wrong(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> Any:
            return ["stamp"]

    with pytest.raises(TypeError, match="dictionary of stamps"):
        add.s(1).stamp(Wrong())


def test_links_get_what_is_given_and_not_what_the_signature_has(add: Task[..., Any]) -> None:
    made = add.s(1).stamp(own=1)
    made.link(add.s(2))
    made.link_error(add.s(3))
    made.options["link"][0].link(add.s(4))
    visitor = Recorder()
    made.stamp(visitor, given=2)
    assert everywhere(made) == [
        ("(1,)", {"own": 1, "given": 2, "of": "add"}),
        ("(2,)", {"given": 2, "is_callback": True, "of": "add"}),
        ("(4,)", {"given": 2, "is_callback": True, "of": "add"}),
        ("(3,)", {"given": 2, "is_errback": True, "of": "add"}),
    ]
    assert visitor.seen.count("callback") == 2


def test_links_that_came_as_data(app: Kernel, add: Task[..., Any]) -> None:
    made = add.s(1)
    made.link(add.s(2))
    again = app.signature(json.loads(json.dumps(made))).stamp(a=1)
    assert everywhere(again) == [("(1,)", {"a": 1}), ("(2,)", {"a": 1})]


def test_a_chain(add: Task[..., Any]) -> None:
    visitor = Recorder()
    made = chain(add.s(1), add.s(2))
    made.link(add.s(3))
    made.stamp(visitor, a=1)
    assert everywhere(made) == [
        ("(1,)", {"a": 1, "in_chain": True, "of": "add"}),
        ("(2,)", {"a": 1, "in_chain": True, "of": "add"}),
        ("(3,)", {"a": 1, "in_chain": True, "is_callback": True, "of": "add"}),
    ]
    assert visitor.seen == [
        "chain",
        "callback",
        "signature add(3,)",
        "signature add(1,)",
        "signature add(2,)",
        "chain ends",
    ]


def test_a_group_whose_members_came_from_a_generator(add: Task[..., Any]) -> None:
    visitor = Recorder()
    made = group(add.s(n) for n in range(2)).stamp(visitor, a=1)
    assert everywhere(made) == [(f"({n},)", {"a": 1, "in_group": True, "of": "add"}) for n in range(2)]
    # They were made by whoever looked at them.
    assert visitor.seen == ["group", "group ends", "signature add(0,)", "signature add(1,)"]


def test_a_chord(app: Kernel, add: Task[..., Any]) -> None:
    visitor = Recorder()
    made = chord([add.s(1), add.s(2)], app.tasks["total"].s()).stamp(visitor, a=1)
    shared = {"a": 1, "in_group": True}
    assert everywhere(made) == [
        ("(1,)", {**shared, "of": "add"}),
        ("(2,)", {**shared, "of": "add"}),
        ("()", {**shared, "is_body": True, "of": "total"}),
    ]
    assert visitor.seen == [
        "group",
        "signature add(1,)",
        "signature add(2,)",
        "header ends",
        "body",
        "signature total()",
    ]


def test_any_depth(app: Kernel, add: Task[..., Any]) -> None:
    inner = chain(add.s(1), group(add.s(2), add.s(3) | add.s(4)))
    made = chord([inner, add.s(5)], app.tasks["total"].s() | add.s(6))
    made.stamp(a=1)
    rows = everywhere(made)
    assert sorted(row[0] for row in rows) == ["()", "(1,)", "(2,)", "(3,)", "(4,)", "(5,)", "(6,)"]
    assert all(row[1] == {"a": 1} for row in rows)


def test_a_map_is_stamped_as_one_call(add: Task[..., Any]) -> None:
    made = xmap(add.s(), [1, 2]).stamp(a=1)
    assert stamps_of(made) == {"a": 1}
    assert [stamps_of(part) for part in add.chunks([(1,), (2,)], 1).stamp(a=1).group().spread()] == [{"a": 1}] * 2


# --- how they travel ----------------------------------------------------------------------------------------


def test_on_the_wire(app: Kernel, add: Task[..., Any]) -> None:
    made = (add.s(1) | add.s(2)).stamp(trace="t")
    made.apply_async()
    [message] = app.broker.peek("celery", 10)
    assert (message.headers["stamped_headers"], message.headers["stamps"]) == (["trace"], {"trace": "t"})
    assert "trace" not in message.properties
    [following] = app.codecs.decode_body(message)[2]["chain"]
    assert (following["options"]["trace"], following["options"]["stamped_headers"]) == ("t", ["trace"])
    plain = app.publisher.prepare(Call("add", (1,), {}, {"countdown": 0})).message.headers
    assert (plain["stamped_headers"], plain["stamps"]) == (None, {})


def test_given_with_the_call(app: Kernel, add: Task[..., Any]) -> None:
    add.apply_async((1,), stamped_headers=["a", "absent"], a=[1, 2])  # type: ignore[call-arg]
    app.send_task("unknown", stamped_headers=("b",), b=3)  # type: ignore[call-arg]
    first, second = app.broker.peek("celery", 10)
    assert (first.headers["stamped_headers"], first.headers["stamps"]) == (["a", "absent"], {"a": [1, 2]})
    assert (second.headers["stamped_headers"], second.headers["stamps"]) == (["b"], {"b": 3})


@pytest.mark.parametrize("names", ["a", {"a": 1}, [1]])
def test_names_that_are_none(add: Task[..., Any], names: Any) -> None:
    with pytest.raises(TypeError, match="stamped_headers"):
        add.apply_async((1,), stamped_headers=names, a=1)  # type: ignore[call-arg]


def test_a_stamp_that_is_no_json(app: Kernel, add: Task[..., Any]) -> None:
    with pytest.raises(errors.EncodeError, match="stamps"):
        add.s(1).stamp(a=object()).delay()
    assert not app.broker.peek("celery", 10)


def test_in_the_request_and_over_retries(app: Kernel) -> None:
    seen: list[Any] = []

    @app.task(name="again", bind=True)
    def again(self: Task[..., Any], how: str) -> None:
        seen.append((self.request.retries, self.request.stamped_headers, dict(self.request.stamps or {})))
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        if self.request.retries == 1:
            raise self.retry(args=(how,), countdown=0, stamped_headers=["trace"], trace="other")

    bench = Bench(app)
    ending = bench.run_message(bench.message(again, "x", stamped_headers=["trace"], trace="t"))
    for _ in range(2):
        assert ending.state == states.RETRY
        [publication] = ending.publications
        assert "trace" not in publication.message.properties
        ending = bench.run_message(publication.message)
    assert ending.state == states.SUCCESS
    assert seen == [(0, ["trace"], {"trace": "t"}), (1, ["trace"], {"trace": "t"}), (2, ["trace"], {"trace": "other"})]
    seen.clear()
    again.s("x").stamp(trace="t").apply()
    assert [row[2] for row in seen] == [{"trace": "t"}] * 3


def test_a_signature_of_the_request_has_them(app: Kernel) -> None:
    found: list[Signature[Any]] = []

    @app.task(name="asks", bind=True)
    def asks(self: Task[..., Any]) -> None:
        found.append(self.signature_from_request())

    bench = Bench(app)
    bench.run(asks, stamped_headers=["a"], a=1)
    assert stamps_of(found[0]) == {"a": 1}


def test_in_extended_results(app: Kernel, add: Task[..., Any]) -> None:
    app.conf.result_extended = True
    bench = Bench(app)
    [record] = bench.run(add, 1, stamped_headers=["a"], a=1).records
    assert json.loads(record.stamps or "") == {"stamped_headers": ["a"], "stamps": {"a": 1}}


# --- what a worker remembers of them ------------------------------------------------------------------------


def test_what_a_worker_remembers_of_revoked_stamps() -> None:
    revoked = RevokedStamps()
    assert not revoked
    revoked.add({"batch": "a", "several": ["x", 2], "odd": {"k": [1]}})
    rows: list[tuple[dict[str, Any], bool]] = [
        ({"batch": "a"}, True),
        ({"batch": "b"}, False),
        ({"other": "a"}, False),
        ({"several": "x"}, True),
        ({"several": [5, 2]}, True),
        ({"several": ["x", 2]}, True),
        ({"several": "2"}, False),
        ({"odd": {"k": [1]}}, True),
        ({"batch": None}, False),
    ]
    for stamps, expected in rows:
        assert revoked.match({"stamped_headers": list(stamps), "stamps": stamps}) is expected, stamps
    for headers in ({}, {"stamped_headers": None, "stamps": {"batch": "a"}}, {"stamped_headers": [1], "stamps": []}):
        assert not revoked.match(headers)
    assert not revoked.match({"stamped_headers": ["trace"], "stamps": {"batch": "a"}}), "it is no stamp"


def test_only_so_many_are_remembered() -> None:
    revoked = RevokedStamps()
    for number in range(50_010):
        revoked.add({"n": number})
    found = [revoked.match({"stamped_headers": ["n"], "stamps": {"n": n}}) for n in (0, 9, 10, 50_009)]
    assert found == [False, False, True, True]


@pytest.mark.parametrize("headers", [None, {}, [], "a"])
def test_a_command_without_stamps_is_refused(app: Kernel, headers: Any) -> None:
    with pytest.raises(errors.InvalidTaskError):
        stamps_in({"headers": headers} if headers is not None else {})
    with pytest.raises(TypeError, match="dictionary of stamps"):
        app.control.revoke_by_stamped_headers(headers)
