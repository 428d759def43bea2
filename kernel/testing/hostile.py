"""Messages from strangers who mean harm, or whose software is broken.

Each starts as a good task message in which one thing is wrong: a header, the text of the headers, the body, its
content type or encoding, its compression, a property, the id, a time. They are made from a seed alone, so
that a message that did harm can be made again.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kernel.message import Message
from kernel.testing import hostile_parts as parts
from kernel.testing import payloads

JSON: Final = "application/json"
_EMBED: Final[Mapping[str, Any]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_DEEP: Final = 100_000
_LONG: Final = 1_000_000
# Large ones cost their reader megabytes; each comes once, and then one message in so many is large.
_LARGE_EVERY: Final = 100


def task_message(task: str, task_id: str, args: Any = (), kwargs: Any = None, **headers: Any) -> Message:
    """A good message of protocol 2, as a peer in another program would write it."""
    described: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(tuple(args)),
        "kwargsrepr": repr(kwargs or {}),
        "origin": "gen1@elsewhere",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    body = json.dumps([list(args), kwargs or {}, _EMBED]).encode()
    properties = {"correlation_id": task_id, "reply_to": "", "delivery_mode": 2, "priority": 0}
    return Message({**described, **headers}, body, content_type=JSON, properties=properties)


def hostile_messages(
    seed: int, count: int, *, task: str = "hostile.victim", canary: str = "hostile-canary"
) -> Iterator[Message]:
    """`count` messages; every kind comes at least once if `count` is 1,500 or more.

    `task` is the name most of them carry: register it, so that their bodies are looked into. Some are harmless
    to a careful reader and will run. `canary` is a file that a decoder creates which runs code of theirs; look
    that it is not there. Message ids start with ``hostile-`` where they can be read at all and were left alone.
    """
    return (message for _, message in itertools.islice(hostile_cases(seed, task=task, canary=canary), count))


def hostile_cases(
    seed: int, *, task: str = "hostile.victim", canary: str = "hostile-canary"
) -> Iterator[tuple[str, Message]]:
    """The same without an end, each with a text that says what is wrong with it."""
    choice = random.Random(seed)
    small, large = _kinds(canary)
    numbers = itertools.count()

    def made(kind: _Kind) -> tuple[str, Message]:
        good = task_message(task, f"hostile-{seed}-{next(numbers)}", (1, "two"), {"three": [3.0]})
        return kind.text, kind.spoil(good)

    first = [*small, *large]
    choice.shuffle(first)
    yield from map(made, first)
    while True:
        yield made(choice.choice(large if choice.randrange(_LARGE_EVERY) == 0 else small))


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to be wrong."""

    text: str
    spoil: Callable[[Message], Message]


def _kinds(canary: str) -> tuple[list[_Kind], list[_Kind]]:
    """The small and the large ones."""
    small = [
        *(_header(name, value) for name in parts.HEADERS for value in parts.WRONG),
        *(_header(name, value) for name, values in parts.TIMES.items() for value in values),
        *(_header(name, value) for name in parts.SHOWN for value in parts.ESCAPES),
        *(_header("id", value) for value in parts.IDS),
        *(_header("compression", value) for value in parts.COMPRESSIONS),
        *(_missing(name) for name in parts.HEADERS),
        *(_headers_text(text) for text in parts.HEADER_TEXTS),
        *(_body(data) for data in parts.BODIES),
        *(_body(json.dumps([[], {}, {**_EMBED, **embed}]).encode()) for embed in parts.EMBEDS),
        *(_typed(content_type, encoding) for content_type, encoding in parts.TYPES),
        *(_property(name, value) for name, values in parts.PROPERTIES.items() for value in values),
        *_canaries(canary),
        *_squeezed(),
    ]
    large = [
        *(_body(data) for data in payloads.nests(_DEEP)),
        *(_compressed(content_type, data) for content_type, data in payloads.bombs()),
        *(_headers_text(text) for text in parts.large_header_texts(_DEEP, _LONG)),
        *(_body(data) for data in parts.large_bodies(_LONG)),
        _header("id", "i" * 2**20),
        _header("task", "t" * 2**20),
        _header("argsrepr", "\x1b[2J" * 2**18),
    ]
    return small, large


def _header(name: str, value: Any) -> _Kind:
    return _Kind(f"header {name} = {_short(value)}", lambda good: good.replace_headers(**{name: value}))


def _missing(name: str) -> _Kind:
    def spoil(good: Message) -> Message:
        return _copy(good, headers={key: value for key, value in good.headers.items() if key != name})

    return _Kind(f"no header {name}", spoil)


def _headers_text(text: bytes) -> _Kind:
    """`text` may hold ``ID`` and ``TASK``, which become those of the message."""

    def spoil(good: Message) -> Message:
        return _copy(good, headers=text.replace(b"ID", good.id.encode()).replace(b"TASK", good.task.encode()))

    return _Kind(f"headers {_short(text)}", spoil)


def _body(data: bytes) -> _Kind:
    return _Kind(f"body {_short(data)}", lambda good: _copy(good, body=data))


def _typed(content_type: str, encoding: str) -> _Kind:
    return _Kind(
        f"content type {_short(content_type)}, encoding {_short(encoding)}",
        lambda good: _copy(good, content_type=content_type, content_encoding=encoding),
    )


def _property(name: str, value: Any) -> _Kind:
    return _Kind(
        f"property {name} = {_short(value)}",
        lambda good: _copy(good, properties={**good.properties, name: value}),
    )


def _compressed(content_type: str, data: bytes) -> _Kind:
    return _Kind(
        f"{content_type} {_short(data)}",
        lambda good: _copy(good, headers={**good.headers, "compression": content_type}, body=data),
    )


def _canaries(path: str) -> Iterator[_Kind]:
    """What would run code, under its own content type and under those that a reader is likelier to accept."""
    types = ("application/x-python-serialize", "application/x-yaml", "application/x-msgpack", JSON, "application/data")
    for data in payloads.canaries(path):
        for content_type in types:
            yield _Kind(
                f"canary as {content_type}: {_short(data)}",
                lambda good, data=data, content_type=content_type: _copy(  # type: ignore[misc]
                    good, body=data, content_type=content_type, content_encoding="binary"
                ),
            )


def _squeezed() -> Iterator[_Kind]:
    """Compressed bodies that are cut short, go on, or are something else than they say."""
    for content_type, data in payloads.squeezed(b"[[1], {}, null]"):
        yield _compressed(content_type, data[: len(data) // 2])
        yield _compressed(content_type, data + b"garbage")
        yield _compressed(content_type, b"[[1], {}, null]")
        yield _compressed(content_type, b"")
        other = "application/x-bz2" if content_type != "application/x-bz2" else "application/x-gzip"
        yield _compressed(other, data)


def _copy(
    good: Message,
    *,
    headers: Mapping[str, Any] | bytes | None = None,
    body: bytes | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
    properties: Mapping[str, Any] | None = None,
) -> Message:
    return Message(
        good.headers if headers is None else headers,
        good.body if body is None else body,
        content_type=good.content_type if content_type is None else content_type,
        content_encoding=good.content_encoding if content_encoding is None else content_encoding,
        properties=good.properties if properties is None else properties,
    )


def _short(value: Any) -> str:
    text = ascii(value if not isinstance(value, str | bytes) else value[:60])
    return text if len(text) <= 80 else text[:77] + "..."
