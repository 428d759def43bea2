"""The rows of the table that are chords."""

from __future__ import annotations

from typing import Any, Final

from tests.canvas.case import ANY, Case
from tests.canvas.shop import Shop, as_json, failing, immutable, linked


def pair(c: Shop) -> Any:
    """A group of two: 3 and 8."""
    return c.group(c.add("a", 1, 2), c.double("b", 4))


PAIR: Final = {"a": None, "b": None}
BROKEN: Final = ("ChordError", "ValueError('no 1')")
EITHER: Final = {"error": (ANY, "no 1")}
"""Whoever asks Celery while the chord breaks may be told of the member's own error."""


def broken(c: Shop) -> Any:
    """A group whose first member fails."""
    return c.group(c.fail("a", 1), c.double("b", 4))


# fmt: off
COMPOSITION: Final = [
    Case("4-47 group and task", lambda c: pair(c) | c.total("t"), 11,
         ran={**PAIR, "t": ANY}, path=["t", ["a", "b"]], heard={"t": [[3, 8]]}, indexes={"a": 0, "b": 1}),
    Case("4-33 chord", lambda c: c.chord([c.add("a", 1, 2), c.double("b", 4)], c.total("t")), 11,
         ran={**PAIR, "t": ANY}, path=["t", ["a", "b"]], heard={"t": [[3, 8]]}),
    Case("4-33 chord of a generator", lambda c: c.chord((c.double(str(n), n) for n in range(30)), c.echo("t")),
         [[*range(0, 60, 2)]], ran={**{str(n): None for n in range(30)}, "t": ANY}),
    Case("4-33 body with arguments of its own", lambda c: c.chord(pair(c), c.echo("t", 7)), [[3, 8], 7],
         ran={**PAIR, "t": ANY}),
    Case("4-4 an immutable body", lambda c: c.chord(pair(c), c.echo("t", 7).set(immutable=True)), [7],
         ran={**PAIR, "t": ANY}),
    Case("4-33 arguments go to the header", lambda c: c.chord([c.add("a", 1), c.double("b")], c.total("t")), 16,
         call={"args": (5,)}, ran={**PAIR, "t": ANY}),
    Case("4-33 task_id is the body's", lambda c: c.chord(pair(c), c.total("t")), 11,
         call={"task_id": lambda c: f"id-{c.token}"}, ran={**PAIR, "t": ANY}, path=["t", ["a", "b"]]),
    Case("4-35 an empty header", lambda c: c.chord([], c.total("t"), app=c.app), 0, ran={"t": None}),
    Case("4-33 a header of one", lambda c: c.chord([c.double("a", 4)], c.echo("t")), [[8]],
         ran={"a": None, "t": "a"}, path=["t", ["a"]]),
    Case("4-47 group of one and task", lambda c: c.group(c.double("a", 4)) | c.echo("t"), [[8]],
         ran={"a": None, "t": "a"}),
    Case("4-48 group and group", lambda c: pair(c) | c.group(c.total("d"), c.echo("e")), [11, [[3, 8]]],
         ran={**PAIR, "d": ANY, "e": ANY}, path=[["d", "e"], ["a", "b"]]),
    Case("4-48 group and group of one", lambda c: pair(c) | c.group(c.echo("t")), [[[3, 8]]],
         ran={**PAIR, "t": ANY}, path=[["t"], ["a", "b"]]),
    Case("4-51 chain ending in a group, and group of one",
         lambda c: c.chain(c.double("m", 1), c.group(c.add("a", 1), c.double("b")), c.group(c.echo("t"))), [[3, 4]],
         ran={"m": None, "a": "m", "b": "m", "t": ANY}, path=["t", ["a", "b"], "m"]),
    Case("4-57 chord whose body is a group of one, and task",
         lambda c: c.chord([c.double("m", 1)], c.group(c.echo("t"))) | c.echo("u"), [[[[2]]]],
         ran={"m": None, "t": "m", "u": ANY}),
    Case("4-50 group and chain", lambda c: pair(c) | (c.total("t") | c.double("u")), 22,
         ran={**PAIR, "t": ANY, "u": "t"}, path=["u", "t", ["a", "b"]], celery={"path": ["u", ["a", "b"]]}),
    Case("4-51 chain ending in a group, and task",
         lambda c: (c.add("a", 1, 2) | c.group(c.double("b"), c.add("d", 1))) | c.total("t"), 10,
         ran={"a": None, "b": "a", "d": "a", "t": ANY}, path=["t", ["b", "d"], "a"], heard={"t": [[6, 4]]}),
    Case("4-52 chain ending in a chord, and task",
         lambda c: (c.add("a", 1, 2) | c.chord([c.double("b"), c.add("d", 1)], c.total("t"))) | c.double("u"), 20,
         ran={"a": None, "b": "a", "d": "a", "t": ANY, "u": "t"}, path=["u", "t", ["b", "d"], "a"]),
    Case("4-53 chain ending in a chord, and group",
         lambda c: (c.add("a", 1, 2) | c.chord([c.double("b"), c.add("d", 1)], c.total("t")))
         | c.group(c.double("u"), c.echo("v")), [20, [10]],
         ran={"a": None, "b": "a", "d": "a", "t": ANY, "u": "t", "v": "t"}),
    Case("4-57 chord and task", lambda c: c.chord(pair(c), c.total("t")) | c.double("u"), 22,
         ran={**PAIR, "t": ANY, "u": "t"}, path=["u", "t", ["a", "b"]], celery={"path": ["u", ["a", "b"]]}),
    Case("4-57 chord and group of one", lambda c: c.chord(pair(c), c.total("t")) | c.group(c.double("u")), 22,
         ran={**PAIR, "t": ANY, "u": "t"}),
    Case("4-58 chord and group", lambda c: c.chord(pair(c), c.total("t")) | c.group(c.double("u"), c.add("v", 1)),
         [22, 12], ran={**PAIR, "t": ANY, "u": "t", "v": "t"}),
    Case("4-58 chord and chain", lambda c: c.chord(pair(c), c.total("t")) | (c.double("u") | c.add("v", 1)), 23,
         ran={**PAIR, "t": ANY, "u": "t", "v": "u"}, path=["v", "u", "t", ["a", "b"]]),
    Case("4-59 chord after chord",
         lambda c: c.chain(pair(c), c.total("t"), c.group(c.double("d"), c.add("e", 1)), c.total("u")), 34,
         ran={**PAIR, "t": ANY, "d": "t", "e": "t", "u": ANY}, path=["u", ["d", "e"], "t", ["a", "b"]]),
    Case("4-59 group after group after group",
         lambda c: c.chain(pair(c), c.group(c.total("d"), c.total("e")), c.group(c.total("f"), c.echo("g"))),
         [22, [[11, 11]]], ran={**PAIR, "d": ANY, "e": ANY, "f": ANY, "g": ANY},
         celery_cannot="the last group runs once for each member of the one before"),
    Case("4-24 a group in the middle",
         lambda c: c.chain(c.add("a", 1, 2), c.group(c.double("b"), c.double("d")), c.total("t"), c.double("u")), 24,
         ran={"a": None, "b": "a", "d": "a", "t": ANY, "u": "t"}, path=["u", "t", ["b", "d"], "a"]),
    Case("4-47 empty group and task", lambda c: c.group(app=c.app) | c.echo("t"), [[]], ran={"t": None},
         path=["t", []]),
    Case("4-51 task, empty group and task", lambda c: c.add("a", 1, 2) | c.group() | c.echo("t"), [[]],
         ran={"a": None, "t": "a"}, path=["t", [], "a"]),
    Case("4-57 chain of a chord whose body is a group of one, and a task",
         lambda c: c.chain(c.chord([c.double("m", 1)], c.group(c.echo("t"))), c.echo("u")), [[[[2]]]],
         ran={"m": None, "t": "m", "u": ANY}, path=["u", ["t"], ["m"]], celery={"path": ["u", ["m"]]}),
    Case("4-59 chord and chord",
         lambda c: c.chord(pair(c), c.total("t")) | c.chord([c.double("d"), c.add("e", 1)], c.total("u")), 34,
         ran={**PAIR, "t": ANY, "d": "t", "e": "t", "u": ANY}, path=["u", ["d", "e"], "t", ["a", "b"]],
         celery={"path": ["u", ["a", "b"]]}),
    Case("4-20 a chord that was JSON", lambda c: c.app.signature(as_json(c.chord(pair(c), c.total("t")))), 11,
         ran={**PAIR, "t": ANY}),
]

NESTING: Final = [
    Case("4-72 chains in a header",
         lambda c: c.chord([c.add("a", 1, 2) | c.double("b"), c.double("d", 5)], c.echo("t")), [[6, 10]],
         ran={"a": None, "b": "a", "d": None, "t": ANY}),
    Case("4-72 a group in a header", lambda c: c.chord([c.double("d", 5), pair(c)], c.echo("t")), [[10, 3, 8]],
         ran={"a": None, "b": None, "d": None, "t": ANY}, celery={"value": [[10, 8, 3]]}),
    Case("4-72 a chord in a header",
         lambda c: c.chord([c.chord(pair(c), c.total("t")), c.double("d", 5)], c.echo("u")), [[11, 10]],
         ran={**PAIR, "t": ANY, "d": None, "u": ANY}),
    Case("4-72 chords in chords in chords",
         lambda c: c.chord([c.chord([c.chord(pair(c), c.total("t")), c.double("d", 1)], c.total("u"))], c.total("v")),
         13, ran={**PAIR, "t": ANY, "d": None, "u": ANY, "v": ANY}),
    Case("4-72 a chain with a chord in a header",
         lambda c: c.chord([c.add("a", 1, 1) | c.group(c.double("b"), c.add("d", 1)) | c.total("t"), c.double("e", 5)],
                           c.echo("u")), [[7, 10]],
         ran={"a": None, "b": "a", "d": "a", "t": ANY, "e": None, "u": ANY}),
    Case("4-72 a chain that ends in a group in a header",
         lambda c: c.chord([c.add("a", 1, 1) | c.group(c.double("b"), c.add("d", 1)), c.double("e", 5)], c.echo("u")),
         [[[4, 3], 10]], ran={"a": None, "b": "a", "d": "a", "e": None, "u": ANY}),
    Case("4-72 a chord in a group", lambda c: c.group(c.chord(pair(c), c.total("t")), c.double("d", 5)), [11, 10],
         ran={**PAIR, "t": ANY, "d": None}),
    Case("4-72 a chord as a body",
         lambda c: c.chord(pair(c), c.chord([c.total("d"), c.echo("e")], c.echo("t"))), [[11, [[3, 8]]]],
         ran={**PAIR, "d": ANY, "e": ANY, "t": ANY}),
    Case("4-72 a group as a body", lambda c: c.chord(pair(c), c.group(c.total("d"), c.echo("e"))), [11, [[3, 8]]],
         ran={**PAIR, "d": ANY, "e": ANY}),
    Case("4-72 a chord whose body ends in a group, in a header",
         lambda c: c.chord([c.chord(pair(c), c.group(c.total("d"), c.echo("e"))), c.double("f", 5)], c.echo("t")),
         [[[11, [[3, 8]]], 10]], ran={**PAIR, "d": ANY, "e": ANY, "f": None, "t": ANY}),
    Case("4-72 a map in a header", lambda c: c.chord([c.task("double").map([1, 2]), c.double("a", 4)], c.echo("t")),
         [[[2, 4], 8]], ran={"a": None, "t": ANY}),
    Case("4-41 chunks and a task", lambda c: c.task("double").chunks([(1,), (2,), (3,)], 2) | c.echo("t"),
         [[[2, 4], [6]]], ran={"t": ANY}, celery_cannot="a GroupResult is no JSON"),
    Case("4-33 a retry in the header", lambda c: c.chord([c.again("a", 3, 2), c.double("b", 4)], c.total("t")), 11,
         ran={**PAIR, "t": ANY}, times={"a": 3}),
    Case("4-76 a chord as a callback", lambda c: linked(c.add("x", 1, 2), c.chord([c.double("a"), c.add("b", 1)],
         c.total("t"))), 3, ran={"x": None, "a": "x", "b": "x", "t": ANY}, heard={"t": [[6, 4]]}),
]

CHORD_LINKS: Final = [
    Case("4-37 link of a chord is the body's", lambda c: linked(c.chord(pair(c), c.total("t")), c.echo("l")), 11,
         ran={**PAIR, "t": ANY, "l": "t"}, heard={"l": [11]}),
    Case("4-37 link of the call is the body's", lambda c: c.chord(pair(c), c.total("t")), 11,
         call={"link": lambda c: c.echo("l")}, ran={**PAIR, "t": ANY, "l": "t"}, heard={"l": [11]}),
    Case("4-38 immutable headers", lambda c: immutable(c.chord(pair(c), c.total("t"))), 11, call={"args": (5,)},
         ran={**PAIR, "t": ANY}),
    Case("4-74 links of members", lambda c: c.chord([linked(c.add("a", 1, 2), c.echo("l")), c.double("b", 4)],
         c.total("t")), 11, ran={**PAIR, "t": ANY, "l": "a"}, heard={"l": [3]}),
    Case("4-37 no errback of a success", lambda c: failing(c.chord(pair(c), c.total("t")), c.new("e")), 11,
         ran={**PAIR, "t": ANY}),
]

FAILURES: Final = [
    Case("4-66 a member fails", lambda c: c.chord(broken(c), c.total("t")), error=BROKEN, celery=EITHER, ran=PAIR),
    Case("4-66 the body's errback", lambda c: c.chord(broken(c), failing(c.total("t"), c.new("e"))),
         error=BROKEN, celery=EITHER, ran={**PAIR, "e": ANY}),
    Case("4-66 the body's errback that is a task", lambda c: c.chord(broken(c), failing(c.total("t"), c.old("e"))),
         error=BROKEN, celery=EITHER, ran={**PAIR, "e": ANY}),
    Case("4-37 errback of a chord", lambda c: failing(c.chord(broken(c), c.total("t")), c.new("e")),
         error=BROKEN, celery=EITHER, ran={**PAIR, "e": ANY}),
    Case("4-69 what follows a broken chord", lambda c: c.chord(broken(c), c.total("t")) | c.double("u") | c.double("v"),
         error=BROKEN, celery=EITHER, ran=PAIR),
    Case("4-68 a body that is a group", lambda c: c.chord(broken(c), c.group(c.total("d"), c.echo("e"))),
         error=("ValueError", "no 1"), ran=PAIR),
    Case("4-68 the errbacks of a body that is a group",
         lambda c: c.chord(broken(c), c.group(failing(c.total("d"), c.new("e")), failing(c.echo("f"), c.new("g")))),
         error=("ValueError", "no 1"), ran={**PAIR, "e": ANY, "g": ANY}, heard={"e": ["ValueError", "no 1"]}),
    Case("2-76 a member is ignored", lambda c: c.chord([c.ignore("a"), c.double("b", 4)], c.total("t")),
         error=("ChordError", "raised Ignore("), ran=PAIR, celery_cannot="waits for ever"),
    Case("2-76 the errback of a chord whose member is ignored",
         lambda c: c.chord([c.ignore("a"), c.double("b", 4)], failing(c.total("t"), c.new("e"))) | c.double("u"),
         error=("ChordError", "raised Ignore("), ran={**PAIR, "e": ANY}, celery_cannot="waits for ever"),
    Case("2-76 a chain in the header is ignored at its head",
         lambda c: c.chord([c.ignore("a") | c.double("x"), c.double("b", 4)], c.total("t")),
         error=("ChordError", "raised Ignore("), ran=PAIR, celery_cannot="waits for ever"),
    Case("4-69 a chord in a broken header",
         lambda c: c.chord([c.chord(broken(c), c.total("t")), c.double("d", 5)], c.echo("u")),
         error=("ChordError", "no 1"), ran={**PAIR, "d": None}),
    Case("4-66 the body fails", lambda c: c.chord(pair(c), c.fail("t")), error=("ValueError", "no [3, 8]"),
         ran={**PAIR, "t": ANY}),
    Case("4-66 a chain in the header fails at its head",
         lambda c: c.chord([c.fail("a", 1) | c.double("x"), c.double("b", 4)], c.total("t")),
         error=BROKEN, celery=EITHER, ran=PAIR),
    Case("4-66 a chain in the header fails at its end",
         lambda c: c.chord([c.double("x", 0) | c.fail("a", 1).set(immutable=True), c.double("b", 4)], c.total("t")),
         error=BROKEN, ran={"x": None, "a": "x", "b": None}, celery={"error": (ANY, "no 1")}),
    Case("4-66 a chord in the middle of a chain", lambda c: c.add("x", 1, 2)
         | c.group(c.fail("a", 1).set(immutable=True), c.double("b")) | c.total("t") | c.double("u"),
         error=BROKEN, celery=EITHER, ran={"x": None, "a": "x", "b": "x"}),
    Case("4-69 a failure before a chord",
         lambda c: c.fail("a", 1) | c.group(c.double("b"), c.double("d")) | c.total("t"),
         error=("ValueError", "no 1"), ran={"a": None}),
]
# fmt: on

CHORDS: Final = [*COMPOSITION, *NESTING, *CHORD_LINKS, *FAILURES]
