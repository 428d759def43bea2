"""What can be wrong with a message: the tables that `kernel.testing.hostile` draws from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

HEADERS: Final = (
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "meth",
    "redelivered",
    "kernel_replay",
)
"""Every header that a worker may look at."""

SHOWN: Final = ("task", "id", "shadow", "argsrepr", "kwargsrepr", "origin", "group", "root_id", "parent_id", "lang")
"""Headers that end up in logs and on screens."""

WRONG: Final[tuple[Any, ...]] = (
    None,
    "",
    "word",
    0,
    -1,
    2**31,
    2**63,
    -(10**30),
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    [[]],
    [None, "x", {}],
    {},
    {"a": {"b": []}},
    "\ud800",
    "\x00",
    {"__type__": "nothing", "__value__": 1},
)
"""A value of every type, most of them wrong wherever they stand."""

_MOMENTS: Final[tuple[Any, ...]] = (
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999+00:00",
    "9999-12-31T23:59:59-14:00",
    "10000-01-01T00:00:00+00:00",
    "-0001-01-01T00:00:00",
    "2026-02-30T00:00:00",
    "2026-01-01T25:00:00",
    "2026-01-01T00:00:00+25:00",
    "2026-01-01T00:00:60Z",
    "2026-01-01",
    "1e400",
    "nan",
    "-inf",
    "99999999999999999999",
    "now; DROP TABLE",
    "\u0662\u0660\u0662\u0666-01-01T00:00:00",
    "T" * 1000,
    1e308,
    -1e308,
    10**400,
    -(10**18),
)
TIMES: Final[Mapping[str, tuple[Any, ...]]] = {
    "eta": _MOMENTS,
    "expires": _MOMENTS,
    "timelimit": (
        [-1, -1],
        [0, 0],
        ["x", None],
        [None, "y"],
        [1e400, 1e400],
        [float("nan"), float("nan")],
        [10**400, 1],
        [None],
        [1, 2, 3],
        [[], {}],
        {"hard": 1},
        "1,2",
        5,
    ),
    "retries": (-(10**9), 10**9, "3", 1e400, [3]),
    "group_index": (-1, 10**30, "0", 0.5),
    "replaced_task_nesting": (-1, 10**9, "x"),
    "priority": ("high", -5, 10**30),
}

ESCAPES: Final = (
    "line\r\nINFO forged line",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "bell\x07\x08\x7f",
    "\u202etxt.exe",
    "\u2028\u2029\x85",
    "%s%n%(asctime)s{0.__class__}",
    "<script>alert(1)</script>",
    "$(touch hostile-canary)`id`",
)
"""Texts that write more than they show, or that somebody takes for a format."""

IDS: Final = (
    "a:b:c",
    "a/../../b",
    "/etc/passwd",
    "..",
    "a b",
    "a,b;c",
    "{tag}",
    "*",
    "[a-z]?",
    "'; DROP TABLE kernel_messages; --",
    '"',
    "%",
    "_",
    "\\",
    "\n",
    "\x00",
    "a\x00b",
    "celery-task-meta-x",
    "kernel:dead",
    "unacked",
    "é" * 200,
    "😀",
    "a" * 300,
    " ",
)
"""Task ids that mean something to a store, a path or a pattern."""

COMPRESSIONS: Final[tuple[Any, ...]] = (
    "application/x-nothing",
    "zlib",
    "gzip",
    "../zlib",
    "application/x-python-serialize",
    "APPLICATION/X-GZIP",
    "application/x-gzip; q=1",
    "application/x-gzip\r\n",
    "",
    "x" * 5000,
    ["application/x-gzip"],
    {"application/x-gzip": 1},
    5,
    True,
)

TYPES: Final = (
    ("application/x-python-serialize", "binary"),
    ("application/x-yaml", "utf-8"),
    ("application/x-msgpack", "binary"),
    ("application/data", "binary"),
    ("application/data", "utf-8"),
    ("application/text", "utf-8"),
    ("text/plain", "utf-8"),
    ("text/html", "utf-8"),
    ("", ""),
    ("json", "utf-8"),
    ("pickle", "binary"),
    ("Application/JSON", "utf-8"),
    ("application/json; charset=utf-7", "utf-8"),
    ("application/json\r\nX-Other: 1", "utf-8"),
    ("application/json\x00", "utf-8"),
    ("application/x-python-serialize ", "binary"),
    ("\x1b[2J", "utf-8"),
    ("x/" + "y" * 5000, "utf-8"),
    *(
        ("application/json", encoding)
        for encoding in (
            "zip",
            "bz2",
            "hex",
            "base64",
            "rot13",
            "uu",
            "quopri",
            "utf-7",
            "utf-16",
            "idna",
            "punycode",
            "unicode_escape",
            "raw_unicode_escape",
            "undefined",
            "mbcs",
            "../../x",
            "",
            "\x00",
            "e" * 5000,
        )
    ),
)

HEADER_TEXTS: Final = (
    b"",
    b" ",
    b"null",
    b"true",
    b"5",
    b'"text"',
    b"[]",
    b'[["task", "TASK"], ["id", "ID"]]',
    b"{}",
    b"{",
    b'{"id": "ID", "task": "TASK"',
    b'{"id": "ID", "task": "TASK"}garbage',
    b"{'id': 'ID', 'task': 'TASK'}",
    b'{"id": "ID", "task": "TASK", "retries": NaN, "eta": Infinity, "expires": -Infinity}',
    b'{"id": "ID", "id": "other", "task": "TASK", "task": "os.system"}',
    b'{"id": "ID", "task": "TASK", "id": null}',
    b'{"id": "ID", "task": "TASK", "argsrepr": "\xff\xfe"}',
    b'{"id": "ID\xc0\x80", "task": "TASK"}',
    b'{"id": "ID", "task": "\\ud800\\udfff\\udbff"}',
    b'{"id": "ID\\u0000", "task": "TASK\\u0000"}',
    b'\xef\xbb\xbf{"id": "ID", "task": "TASK"}',
    '{"id": "ID", "task": "TASK"}'.encode("utf-16"),
    b'{"id": "ID", "task": "TASK", "": "", " ": " ", "\\n": "\\n"}',
    b'{"id": "ID", "task": "TASK", "__class__": "x", "headers": {"id": "y"}, "self": 1}',
    b'{"__type__": "datetime", "__value__": "2026-01-01"}',
    b"\x80\x04N.",
    b"\x00\x01\x02\x03",
)

BODIES: Final = (
    b"",
    b" ",
    b"null",
    b"0",
    b'"text"',
    b"{}",
    b'{"task": "os.system", "args": ["ls"], "kwargs": {}, "id": "x"}',
    b"[]",
    b"[[]]",
    b"[[], {}]",
    b"[[], {}, null, null]",
    b"[null, null, null]",
    b"[{}, [], null]",
    b'["ab", {}, null]',
    b"[5, {}, null]",
    b"[[], 5, null]",
    b'[[], "text", null]',
    b"[[], [], null]",
    b"[[], {}, 5]",
    b'[[], {}, "text"]',
    b"[[], {}, []]",
    b"[[], {}, {}]",
    b'[[], {"self": 1, "": 2, "a b": 3, "\\u0000": 4, "__class__": 5}, null]',
    b"[[NaN, Infinity, -Infinity, 1e999, -0.0], {}, null]",
    b'[[{"a": 1, "a": 2}], {"x": 1, "x": 2}, null]',
    b'[["\xff"], {}, null]',
    b'[["\\ud800"], {}, null]',
    b"[[1], {}, null]garbage",
    b"[[1], {}, null",
    b"[[1,], {}, null]",
    b"\xef\xbb\xbf[[], {}, null]",
    "[[], {}, null]".encode("utf-16"),
    "[[], {}, null]".encode("utf-32"),
    b'[[{"__type__": "os.system", "__value__": "ls"}], {}, null]',
    b'[[{"__type__": ["x"], "__value__": "ls"}], {}, null]',
    b'[[{"__type__": "uuid", "__value__": {"hex": "x"}}], {}, null]',
    b'[[{"__type__": "decimal", "__value__": "x"}], {}, null]',
    b'[[{"__type__": "datetime", "__value__": {}}], {}, null]',
    b'[[{"__type__": "base64", "__value__": 5}], {}, null]',
    b'{"__type__": "bytes", "__value__": "[[], {}, null]"}',
    b'[{"__type__": "bytes", "__value__": "ab"}, {}, null]',
    b'[[{"__type__": "timedelta", "__value__": {"days": 1e400}}], {}, null]',
    b"\x80\x04N.",
    b"\x00" * 50,
    b"\xff" * 50,
    bytes(range(256)),
)

_SIGNATURE: Final[Mapping[str, Any]] = {
    "task": "os.system",
    "args": ["ls"],
    "kwargs": {},
    "options": {"queue": "kernel:dead", "reply_to": "celery", "routing_key": "amq.rabbitmq.trace"},
    "subtask_type": None,
    "immutable": True,
}
_NO_SIGNATURES: Final[tuple[Any, ...]] = (
    5,
    "text",
    True,
    {},
    [],
    [None],
    [5],
    ["task"],
    [[]],
    [{}],
    [{"task": None}],
    [{"task": 5, "args": 5, "kwargs": 5, "options": 5}],
    [{"task": "x", "options": {"task_id": {}, "queue": [], "countdown": "x", "link": 5}}],
    [{"task": "x", "subtask_type": "nothing"}],
)
EMBEDS: Final[tuple[dict[str, Any], ...]] = (
    *({name: value} for name in ("callbacks", "errbacks", "chain", "chord") for value in _NO_SIGNATURES),
    {"callbacks": [_SIGNATURE]},
    {"errbacks": [_SIGNATURE]},
    {"chain": [_SIGNATURE] * 50},
    {"chord": _SIGNATURE},
    {"callbacks": [{**_SIGNATURE, "options": {"link": [_SIGNATURE], "link_error": [_SIGNATURE]}}]},
    {"unknown": 1, "callbacks": None},
)

_FOREIGN: Final = (
    "celery",
    "kernel:dead",
    "celery.pidbox",
    "reply.celery.pidbox",
    "celeryev",
    "amq.rabbitmq.trace",
    "amq.direct",
    "../../etc/passwd",
    "a\r\nb",
    "\x00",
    "*",
    "q" * 5000,
)
PROPERTIES: Final[Mapping[str, tuple[Any, ...]]] = {
    "reply_to": (*_FOREIGN, None, 5, [], {}),
    "correlation_id": (None, 5, [], {}, "", "\x00", "other", "c" * 5000),
    "exchange": _FOREIGN,
    "routing_key": _FOREIGN,
    "priority": (None, "high", -1, 256, 10**30, 1.5, [], {}),
    "delivery_mode": (None, 0, 99, "2", []),
    "expiration": ("", "-5", "abc", "1e400", "9" * 400, -1, []),
    "delivery_info": ({}, [], "x", {"exchange": {}, "routing_key": 5}),
    "delivery_tag": (None, [], "other"),
}


def large_header_texts(depth: int, digits: int) -> Iterator[bytes]:
    """Headers that nest `depth` levels or hold numbers of `digits` digits."""
    yield b'{"id": "ID", "task": "TASK", "x": ' + b"[" * depth + b"]" * depth + b"}"
    yield b'{"id": "ID", "task": "TASK", "x": ' + b'{"a":' * depth
    yield b'{"id": "ID", "task": "TASK", "retries": ' + b"9" * digits + b"}"
    yield b'{"id": "ID", "task": "TASK", "eta": 1.' + b"9" * digits + b"}"
    yield b'{"id": "ID", "task": "TASK", "' + b"k" * digits + b'": 1}'
    yield b'{"id": "ID", "task": "TASK"' + b"".join(b', "h%d": %d' % (n, n) for n in range(20_000)) + b"}"


def large_bodies(digits: int) -> Iterator[bytes]:
    """Bodies with numbers of `digits` digits, which take hours to read without a bound, and long containers."""
    yield b"[[" + b"9" * digits + b"], {}, null]"
    yield b"[[-" + b"9" * digits + b"], {}, null]"
    yield b"[[0." + b"9" * digits + b"], {}, null]"
    yield b"[[1e" + b"9" * digits + b"], {}, null]"
    yield b'[[{"__type__": "decimal", "__value__": "1e' + b"9" * 1000 + b'"}], {}, null]'
    yield b"[[" + b"null," * (digits // 5) + b"null], {}, null]"
    yield b'[["' + b"\\u0000" * (digits // 6) + b'"], {}, null]'
