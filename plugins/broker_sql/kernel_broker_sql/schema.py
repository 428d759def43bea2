"""The broker's tables.

A message is two rows: a narrow one that claims and requeues rewrite, and its payload, written once and deleted once.
So a claim of a hundred messages touches three pages and not thirty, and a body of a megabyte is never copied.

Whether a message waits is told by `owner` (nobody) and `due` (empty: now). Both are conditions of partial indexes, so
that what is claimed or delayed costs a claim nothing, however much of it there is. A delay that ran out is emptied.
"""

from __future__ import annotations

from typing import Final

from kernel_lib_sql import Part

_INDEXES: Final = (
    """CREATE INDEX kernel_message_ready ON kernel_message (queue, priority DESC, id)
        WHERE owner IS NULL AND due IS NULL""",
    "CREATE INDEX kernel_message_delayed ON kernel_message (due) WHERE owner IS NULL AND due IS NOT NULL",
    "CREATE INDEX kernel_message_claimed ON kernel_message (owner) WHERE owner IS NOT NULL",
)

_SQLITE: Final = (
    "CREATE TABLE kernel_queue (name TEXT NOT NULL PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    "CREATE INDEX kernel_queue_paused ON kernel_queue (name) WHERE paused = 1",
    """CREATE TABLE kernel_message (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,
        size INTEGER NOT NULL,
        sent REAL NOT NULL,
        due REAL,
        owner INTEGER,
        token TEXT,
        starts INTEGER NOT NULL DEFAULT 0,
        running INTEGER NOT NULL DEFAULT 0,
        seen INTEGER NOT NULL DEFAULT 0
    )""",
    *_INDEXES,
    """CREATE TABLE kernel_payload (
        id INTEGER PRIMARY KEY,
        headers TEXT NOT NULL,
        raw BLOB,
        content_type TEXT NOT NULL,
        content_encoding TEXT NOT NULL,
        properties TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    """CREATE TABLE kernel_consumer (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        queues TEXT NOT NULL,
        bell TEXT NOT NULL,
        boot TEXT NOT NULL,
        lease REAL NOT NULL,
        since REAL NOT NULL
    )""",
    """CREATE TABLE kernel_dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        letter TEXT NOT NULL UNIQUE,
        task TEXT NOT NULL,
        queue TEXT NOT NULL,
        reason TEXT NOT NULL,
        died_at REAL NOT NULL,
        starts INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        headers TEXT NOT NULL,
        raw BLOB,
        content_type TEXT NOT NULL,
        content_encoding TEXT NOT NULL,
        properties TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX kernel_dead_queue ON kernel_dead (queue, id)",
    """CREATE TABLE kernel_broadcast (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        sent REAL NOT NULL,
        headers TEXT NOT NULL,
        raw BLOB,
        content_type TEXT NOT NULL,
        content_encoding TEXT NOT NULL,
        properties TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX kernel_broadcast_topic ON kernel_broadcast (topic, id)",
)

_PAYLOAD_POSTGRESQL: Final = """
        headers TEXT NOT NULL,
        raw BYTEA,
        content_type TEXT NOT NULL,
        content_encoding TEXT NOT NULL,
        properties TEXT NOT NULL,
        checksum BIGINT NOT NULL,
        body BYTEA NOT NULL
"""

# A queue's table changes faster than the defaults of autovacuum expect of a table: dead rows are to go by count.
_BUSY: Final = (
    "autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0"
)

_POSTGRESQL: Final = (
    "CREATE TABLE kernel_queue (name TEXT NOT NULL PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX kernel_queue_paused ON kernel_queue (name) WHERE paused = 1",
    f"""CREATE TABLE kernel_message (
        id BIGSERIAL PRIMARY KEY,
        task_id TEXT NOT NULL,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,
        size BIGINT NOT NULL,
        sent DOUBLE PRECISION NOT NULL,
        due DOUBLE PRECISION,
        owner BIGINT,
        token TEXT,
        starts INTEGER NOT NULL DEFAULT 0,
        running INTEGER NOT NULL DEFAULT 0,
        seen INTEGER NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70, {_BUSY})""",
    *_INDEXES,
    f"CREATE TABLE kernel_payload (id BIGINT PRIMARY KEY, {_PAYLOAD_POSTGRESQL}) WITH ({_BUSY})",
    """CREATE TABLE kernel_consumer (
        id BIGSERIAL PRIMARY KEY,
        owner TEXT NOT NULL,
        queues TEXT NOT NULL,
        bell TEXT NOT NULL,
        boot TEXT NOT NULL,
        lease DOUBLE PRECISION NOT NULL,
        since DOUBLE PRECISION NOT NULL
    )""",
    f"""CREATE TABLE kernel_dead (
        id BIGSERIAL PRIMARY KEY,
        letter TEXT NOT NULL UNIQUE,
        task TEXT NOT NULL,
        queue TEXT NOT NULL,
        reason TEXT NOT NULL,
        died_at DOUBLE PRECISION NOT NULL,
        starts INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        {_PAYLOAD_POSTGRESQL}
    )""",
    "CREATE INDEX kernel_dead_queue ON kernel_dead (queue, id)",
    f"""CREATE TABLE kernel_broadcast (
        id BIGSERIAL PRIMARY KEY,
        topic TEXT NOT NULL,
        sent DOUBLE PRECISION NOT NULL,
        {_PAYLOAD_POSTGRESQL}
    ) WITH ({_BUSY})""",
    "CREATE INDEX kernel_broadcast_topic ON kernel_broadcast (topic, id)",
)

_BINDINGS: Final = (
    """CREATE TABLE kernel_binding (
        exchange TEXT NOT NULL,
        type TEXT NOT NULL,
        routing_key TEXT NOT NULL,
        queue TEXT NOT NULL,
        PRIMARY KEY (exchange, queue, routing_key)
    )""",
)

BROKER: Final = Part(
    "broker",
    ({"sqlite": _SQLITE, "postgresql": _POSTGRESQL}, {"sqlite": _BINDINGS, "postgresql": _BINDINGS}),
)
