"""A row of the table of canvases, and what is seen of it when it is run. Standard library alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.canvas.shop import PATIENCE, Shop

ANY: Final = "*"
"""A parent that is one of several, whoever came last."""
NOTHING: Final = "nothing is returned"


@dataclass(frozen=True, slots=True)
class Case:
    """A canvas, and what must come of it. Tasks are named by the labels that they are marked with."""

    row: str
    """Number of the row in the list of features, and a word or two."""
    make: Callable[[Shop], Any]
    value: Any = None
    """What `get` returns."""
    error: tuple[str, str] | None = None
    """What `get` raises instead: the name of its class (or ANY), and a part of its text."""
    ran: Mapping[str, str | None] = field(default_factory=dict)
    """Each label that runs, once, with the label of its parent. What is not in it must not run."""
    path: Sequence[Any] = ()
    """The result and its parents, as labels; that of a group is a list of those of its members."""
    indexes: Mapping[str, int] = field(default_factory=dict)
    """The positions of those that are in a group."""
    heard: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The arguments that a label was called with. ``@label`` is the id of that one's task."""
    children: Mapping[str, set[str]] = field(default_factory=dict)
    """What the record of a label's task names as its children."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for `apply_async`; a function is called with the shop."""
    times: Mapping[str, int] = field(default_factory=dict)
    """Labels that run more than once, and how often."""
    celery: Mapping[str, Any] = field(default_factory=dict)
    """Where Celery differs: the fields of the row that are other there."""
    celery_cannot: str = ""
    """What Celery does where it has no answer: it is not asked then."""

    @property
    def name(self) -> str:
        return self.row.replace(" ", "-")


@dataclass(slots=True)
class Seen:
    """What came of a case."""

    value: Any = None
    error: tuple[str, str] | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    path: list[Any] = field(default_factory=list)
    children: dict[str, set[str]] = field(default_factory=dict)

    def label(self, task_id: str | None) -> str | None:
        """Who ran under an id; the id itself where nobody did."""
        return next((entry["label"] for entry in self.entries if entry["id"] == task_id), task_id)

    def id(self, label: str) -> str:
        return str(next(entry["id"] for entry in self.entries if entry["label"] == label))


def observe(case: Case, shop: Shop) -> Seen:
    """Make the canvas, publish it, wait for its end and for all that is to run."""
    call = {name: value(shop) if callable(value) else value for name, value in case.call.items()}
    result = case.make(shop).apply_async(**call)
    seen = Seen()
    if result is None:
        seen.value = NOTHING
    else:
        try:
            seen.value = plain(result.get(timeout=PATIENCE, interval=0.01))
        except Exception as exc:
            seen.error = (type(exc).__name__, str(exc))
    seen.entries = shop.entries(sum(case.times.get(label, 1) for label in case.ran))
    while result is not None:
        seen.path.append(named(seen, result))
        result = result.parent
    for label in case.children:
        found = shop.app.AsyncResult(seen.id(label)).children or []
        seen.children[label] = {str(seen.label(leaf)) for child in found for leaf in leaves(child)}
    return seen


def named(seen: Seen, result: Any) -> Any:
    members = getattr(result, "results", None)
    return seen.label(result.id) if members is None else [named(seen, member) for member in members]


def leaves(result: Any) -> list[str]:
    members = getattr(result, "results", None)
    return [result.id] if members is None else [leaf for member in members for leaf in leaves(member)]


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def check(case: Case, seen: Seen) -> None:
    """Raise AssertionError where what was seen is not what must be."""
    if case.error is None:
        assert seen.error is None, f"raised {seen.error}"
        assert seen.value == case.value
    else:
        assert seen.error is not None, f"returned {seen.value!r}"
        assert case.error[0] in (seen.error[0], ANY), seen.error
        assert case.error[1] in seen.error[1], seen.error
    counts = {label: sum(entry["label"] == label for entry in seen.entries) for label in case.ran}
    assert counts == {label: case.times.get(label, 1) for label in case.ran}
    assert {entry["label"] for entry in seen.entries} == {*case.ran}, "something else ran"
    check_lineage(case, seen)
    if case.path:
        assert seen.path == list(case.path)
    for label, arguments in case.heard.items():
        wanted = [seen.id(word[1:]) if isinstance(word, str) and word[:1] == "@" else word for word in arguments]
        assert next(entry["args"] for entry in seen.entries if entry["label"] == label) == wanted
    assert seen.children == dict(case.children)


def check_lineage(case: Case, seen: Seen) -> None:
    # Of the first run: Celery takes a retry for a child of the run before.
    parents = {entry["label"]: seen.label(entry["parent_id"]) for entry in reversed(seen.entries)}
    wanted = {label: parents[label] if parent == ANY else parent for label, parent in case.ran.items()}
    assert parents == wanted
    for entry in seen.entries:
        # Whoever has a parent is of its parent's root; who has none is a root itself.
        parent = case.ran[entry["label"]]
        if parent not in (ANY, None):
            roots = {other["root_id"] for other in seen.entries if other["label"] == parent}
            assert {entry["root_id"]} == roots, entry["label"]
        elif parent is None:
            assert entry["root_id"] == entry["id"], entry["label"]
    for label, index in case.indexes.items():
        entry = next(entry for entry in seen.entries if entry["label"] == label)
        assert (entry["group_index"], bool(entry["group"])) == (index, True), label
