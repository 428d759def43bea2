"""Stamps: values that the caller puts on signatures, and that travel with their messages as headers of their own.

Each stamp is an option of the signature, and its name is listed in the option `stamped_headers`. On the wire they are
the headers `stamped_headers` and `stamps`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from kernel.canvas.later import Later
from kernel.signature import Signature, as_signatures

_NAMES: Final = "stamped_headers"

Answer = Mapping[str, Any] | None


class StampingVisitor(ABC):
    """Decides about stamps while `Signature.stamp` goes through a signature and all that it is made of.

    Each method is given the part, and the stamps that come from above. A method answers with a dictionary of options.
    All of them are stamps, unless `stamped_headers` in it lists those that are. Nothing, or None, adds none.
    """

    @abstractmethod
    def on_signature(self, sig: Signature[Any], **headers: Any) -> Answer:
        """A signature of one call."""

    def on_group_start(self, group: Signature[Any], **headers: Any) -> Answer:
        """A group, before its members; what is answered goes for each of them."""
        return {}

    def on_group_end(self, group: Signature[Any], **headers: Any) -> None:
        """A group, after its members."""

    def on_chain_start(self, chain: Signature[Any], **headers: Any) -> Answer:
        """A chain, before its tasks; what is answered goes for each of them."""
        return {}

    def on_chain_end(self, chain: Signature[Any], **headers: Any) -> None:
        """A chain, after its tasks."""

    def on_chord_header_start(self, chord: Signature[Any], **headers: Any) -> Answer:
        """A chord, before its header; by default the header is a group like any other."""
        from kernel.canvas.groups import group

        tasks = header_of(chord)
        return self.on_group_start(tasks if isinstance(tasks, group) else group(tasks, app=chord._app), **headers)

    def on_chord_header_end(self, chord: Signature[Any], **headers: Any) -> None:
        """A chord, after its header and before its body."""

    def on_chord_body(self, chord: Signature[Any], **headers: Any) -> Answer:
        """A chord, before its body; what is answered goes for the body."""
        return {}

    def on_callback(self, callback: Signature[Any], **headers: Any) -> Answer:
        """A callback of a signature, before it is stamped as a signature of its own."""
        return {}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> Answer:
        """The same for an errback."""
        return {}


def stamp(
    signature: Signature[Any], visitor: StampingVisitor | None, *, append: bool, headers: Mapping[str, Any]
) -> None:
    """What `Signature.stamp` does."""
    _Stamping(visitor, append=append).stamp(signature, headers)


def header_of(chord: Signature[Any]) -> Any:
    """The tasks of a chord's header: a group or a list."""
    header = chord.kwargs.get("header")
    return getattr(chord, "tasks", ()) if header is None else header


class _Stamping:
    def __init__(self, visitor: StampingVisitor | None, *, append: bool) -> None:
        self._visitor = visitor
        self._append = append

    def stamp(self, signature: Signature[Any], headers: Mapping[str, Any]) -> None:
        kind = signature.get("subtask_type")
        if kind == "chain":
            self._chain(signature, headers)
        elif kind == "group":
            self._group(signature, headers)
        elif kind == "chord":
            self._chord(signature, headers)
        else:
            self._one(signature, headers)

    def _one(self, signature: Signature[Any], headers: Mapping[str, Any]) -> None:
        self._links(signature, headers)
        answer = None if self._visitor is None else self._visitor.on_signature(signature, **headers)
        stamps = self._over(signature.options, self._with(answer, headers))
        if stamps[_NAMES]:
            signature.options.update(stamps)
        else:
            signature.options.update({name: value for name, value in stamps.items() if name != _NAMES})

    def _chain(self, chain: Signature[Any], headers: Mapping[str, Any]) -> None:
        visitor = self._visitor
        answer = None if visitor is None else visitor.on_chain_start(chain, **headers)
        stamps = self._over(chain.options, self._with(answer, headers))
        self._links(chain, stamps)
        for task in chain.kwargs["tasks"]:
            self.stamp(task, stamps)
        if visitor is not None:
            visitor.on_chain_end(chain, **stamps)

    def _group(self, group: Signature[Any], headers: Mapping[str, Any]) -> None:
        visitor = self._visitor
        answer = None if visitor is None else visitor.on_group_start(group, **headers)
        stamps = self._over(group.options, self._with(answer, headers))
        self._links(group, stamps)
        self._members(group.kwargs["tasks"], stamps)
        if visitor is not None:
            visitor.on_group_end(group, **stamps)

    def _chord(self, chord: Signature[Any], headers: Mapping[str, Any]) -> None:
        visitor = self._visitor
        answer = None if visitor is None else visitor.on_chord_header_start(chord, **headers)
        stamps = self._over(chord.options, self._with(answer, headers))
        self._links(chord, stamps)
        header = header_of(chord)
        self._members(header.kwargs["tasks"] if isinstance(header, Signature) else header, stamps)
        body = chord.kwargs.get("body")
        if visitor is not None:
            visitor.on_chord_header_end(chord, **stamps)
        if isinstance(body, Signature):
            if visitor is not None:
                stamps = self._with(visitor.on_chord_body(chord, **stamps), stamps)
            self.stamp(body, stamps)

    def _members(self, tasks: Any, stamps: Mapping[str, Any]) -> None:
        """Now, or each when it is made, where they come out of a generator."""
        if isinstance(tasks, Later) and not tasks.is_read:
            tasks.change(lambda task: self._stamped(task, stamps))
            return
        for task in tasks:
            self.stamp(task, stamps)

    def _stamped(self, task: Signature[Any], stamps: Mapping[str, Any]) -> Signature[Any]:
        self.stamp(task, stamps)
        return task

    def _links(self, signature: Signature[Any], headers: Mapping[str, Any]) -> None:
        """Its callbacks and errbacks get what is given, and what the visitor says, but not the stamps it has itself."""
        visitor = self._visitor
        for option in ("link", "link_error"):
            if not signature.options.get(option):
                continue
            links = as_signatures(signature.options[option], signature._app)
            # Links that came by JSON are plain dictionaries, of which these are copies.
            signature.options[option] = links
            given: Mapping[str, Any] = copy.deepcopy(dict(headers))
            for link in links:
                answer: Answer = None
                if visitor is not None:
                    ask = visitor.on_callback if option == "link" else visitor.on_errback
                    answer = ask(link, **given)
                self.stamp(link, self._with(answer, given))

    # --- merging --------------------------------------------------------------------------------------------

    def _with(self, answer: Answer, headers: Mapping[str, Any]) -> dict[str, Any]:
        """What comes from above, and on top of it what the visitor said."""
        return self._merged(_listed(headers), _listed(answer or {}), keep_first=False)

    def _over(self, options: Mapping[str, Any], stamps: Mapping[str, Any]) -> dict[str, Any]:
        """New stamps, on top of those that a signature has."""
        names = options.get(_NAMES) or ()
        old = {name: options[name] for name in names if name in options}
        return self._merged(stamps, {**old, _NAMES: list(names)}, keep_first=True)

    def _merged(self, first: Mapping[str, Any], second: Mapping[str, Any], *, keep_first: bool) -> dict[str, Any]:
        made = dict(first)
        for name, value in second.items():
            if name == _NAMES:
                continue
            if name not in made:
                made[name] = value
            elif self._append:
                made[name] = [*_as_list(made[name]), *_as_list(value)]
            elif not keep_first:
                made[name] = value
        made[_NAMES] = list(dict.fromkeys([*first.get(_NAMES, ()), *second.get(_NAMES, ())]))
        return made


def _listed(headers: Mapping[str, Any]) -> dict[str, Any]:
    """With the names of its stamps; where they are not said, all are."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"a visitor answers with a dictionary of stamps; got {headers!r:.80}")
    names = headers.get(_NAMES)
    if names is None:
        names = list(headers)
    return {**headers, _NAMES: [name for name in names if name != _NAMES]}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
