"""The YAML dialect: the safe one, without what is dangerous in it, and with five tags of ours."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import yaml

from kernel.interfaces.place import type_name

if TYPE_CHECKING:
    from yaml import SafeDumper as _BaseDumper
    from yaml import SafeLoader as _BaseLoader
else:
    # libyaml where it is built in, which is ten times as fast.
    _BaseLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _BaseDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

MAX_DEPTH: Final = 200
# Peers write an object that they meet twice once, with an alias; so much may that save, in elements and characters.
_ALIASED: Final = 2**20
MAX_DIGITS: Final = 4300
"""The bound that Python itself puts on turning text into an integer; sexagesimal numbers would get around it."""


class Loader(_BaseLoader):
    """Safe, without merge keys and without numbers of absurd length."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A merge copies all pairs of what it names, so that merges of merges grow without bound.
        # No serializer writes them; a key "<<" in data is quoted, and is no merge.
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys are not accepted", node.start_mark)


class Dumper(_BaseDumper):
    """Safe; an object that is met twice is written twice, and no anchors are made."""

    _depth = 0

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        with self._level():
            return super().represent_sequence(tag, sequence, flow_style)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        with self._level():
            return super().represent_mapping(tag, mapping, flow_style)

    @contextmanager
    def _level(self) -> Iterator[None]:
        """What the loader would refuse for its depth is not written either."""
        if self._depth >= MAX_DEPTH:
            raise RecursionError(f"more than {MAX_DEPTH} levels")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:
        raise yaml.constructor.ConstructorError(None, None, f"number of over {MAX_DIGITS} digits", node.start_mark)
    return int(loader.construct_yaml_int(node))


def _timedelta(text: str) -> timedelta:
    days, seconds, microseconds = map(int, text.split())
    return timedelta(days, seconds, microseconds)


_TAGS: Final[tuple[tuple[str, type, Callable[[Any], str], Callable[[str], Any]], ...]] = (
    ("!decimal", Decimal, str, Decimal),
    ("!uuid", uuid.UUID, str, lambda text: uuid.UUID(hex=text)),
    ("!time", time, lambda value: value.isoformat(), time.fromisoformat),
    ("!timedelta", timedelta, lambda value: f"{value.days} {value.seconds} {value.microseconds}", _timedelta),
)


def _scalar_constructor(decode: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: decode(loader.construct_scalar(node))


def _scalar_representer(tag: str, encode: Callable[[Any], str]) -> Callable[[Any, Any], yaml.ScalarNode]:
    return lambda dumper, value: dumper.represent_scalar(tag, encode(value))


def _exact_representer(represent: Callable[[Any, Any], yaml.Node], exact: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda dumper, value: represent(dumper, exact(value))


def _represent_other(dumper: Any, value: Any) -> yaml.Node:
    """Whatever no rule covers: what its ``__json__()`` returns, or an error."""
    plain = getattr(value, "__json__", None)
    if plain is None:
        raise yaml.representer.RepresenterError(f"YAML has no form for {type_name(value)}")
    node: yaml.Node = dumper.represent_data(plain())
    return node


Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Dumper.add_multi_representer(object, _represent_other)
# PyYAML's safe rules hold for exact types; here they hold for subclasses too (a signature is a kind of dict).
for _base in (list, tuple, dict, set, datetime, date):
    Dumper.add_multi_representer(_base, Dumper.yaml_representers[_base])
# The C emitter takes exact texts only, and an enumeration of texts calls itself something else than its value.
_SCALARS: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
}
for _plain, _exact in _SCALARS.items():
    Dumper.add_multi_representer(_plain, _exact_representer(Dumper.yaml_representers[_plain], _exact))
for _tag, _type, _encode, _decode in _TAGS:
    Loader.add_constructor(_tag, _scalar_constructor(_decode))
    Dumper.add_multi_representer(_type, _scalar_representer(_tag, _encode))


def check_shape(data: bytes) -> None:
    """Raise ValueError for what the loader must not be given. Works on a stream of events, in constant memory.

    libyaml's loader recurses in C without a bound: a document nested deeply enough ends the process. An alias
    of an alias of an alias multiplies: a kilobyte may stand for a billion elements.
    """
    depth = documents = 0
    counts: list[int] = [0]
    sizes: dict[str, int] = {}
    names: list[str | None] = []
    for event in yaml.parse(data, Loader=_BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
            names.append(event.anchor)
            counts.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            _close(counts, sizes, names.pop())
        elif isinstance(event, yaml.AliasEvent):
            counts[-1] += _alias_size(sizes, event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value)
            counts[-1] += size
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if counts[-1] > 10 * len(data) + _ALIASED:
            raise ValueError("its aliases stand for far more than it holds")
    if documents != 1:
        raise ValueError(f"{documents} documents where one is expected")


def _close(counts: list[int], sizes: dict[str, int], name: str | None) -> None:
    size = counts.pop()
    counts[-1] += size
    if name is not None:
        sizes[name] = size


def _alias_size(sizes: Mapping[str, int], name: str | None) -> int:
    size = sizes.get(name or "")
    if size is None:
        raise ValueError(f"alias {name!r} names nothing that ends before it")
    return size
