"""Which distribution and extra bring the drivers of this project. Generated: do not edit.

`python scripts/generate_driver_table.py` writes it from the workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DRIVERS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "brokers": {
        "amqp": ("kernel-broker-amqp", "amqp"),
        "amqps": ("kernel-broker-amqp", "amqp"),
        "memory": ("kernel-broker-memory", "memory"),
        "postgresql": ("kernel-broker-sql", "postgresql"),
        "pyamqp": ("kernel-broker-amqp", "amqp"),
        "redis": ("kernel-broker-redis", "redis"),
        "redis+cluster": ("kernel-broker-redis", "redis"),
        "redis+socket": ("kernel-broker-redis", "redis"),
        "rediss": ("kernel-broker-redis", "redis"),
        "rediss+cluster": ("kernel-broker-redis", "redis"),
        "sentinel": ("kernel-broker-redis", "redis"),
        "sql": ("kernel-broker-sql", "sql"),
        "sqlite": ("kernel-broker-sql", "sql"),
        "unix": ("kernel-broker-redis", "redis"),
    },
    "backends": {
        "db": ("kernel-backend-sql", "sql"),
        "memory": ("kernel-backend-memory", "memory"),
        "postgresql": ("kernel-backend-sql", "postgresql"),
        "redis": ("kernel-backend-redis", "redis"),
        "redis+cluster": ("kernel-backend-redis", "redis"),
        "redis+socket": ("kernel-backend-redis", "redis"),
        "rediss": ("kernel-backend-redis", "redis"),
        "rediss+cluster": ("kernel-backend-redis", "redis"),
        "rpc": ("kernel-backend-rpc", "amqp"),
        "sentinel": ("kernel-backend-redis", "redis"),
        "socket": ("kernel-backend-redis", "redis"),
        "sql": ("kernel-backend-sql", "sql"),
        "sqlite": ("kernel-backend-sql", "sql"),
        "unix": ("kernel-backend-redis", "redis"),
    },
    "serializers": {
        "json": ("kernel-serializer-json", "json"),
        "msgpack": ("kernel-serializer-msgpack", "msgpack"),
        "pickle": ("kernel-serializer-pickle", "pickle"),
        "yaml": ("kernel-serializer-yaml", "yaml"),
    },
    "compressors": {
        "brotli": ("kernel-compressor-brotli", "brotli"),
        "bzip": ("kernel-compressor-bzip2", "bzip2"),
        "bzip2": ("kernel-compressor-bzip2", "bzip2"),
        "gzip": ("kernel-compressor-zlib", "zlib"),
        "lzma": ("kernel-compressor-lzma", "lzma"),
        "xz": ("kernel-compressor-lzma", "lzma"),
        "zlib": ("kernel-compressor-zlib", "zlib"),
        "zstandard": ("kernel-compressor-zstd", "zstd"),
        "zstd": ("kernel-compressor-zstd", "zstd"),
    },
    "pools": {
        "asyncio": ("kernel-pool-asyncio", "asyncio"),
        "eventlet": ("kernel-pool-eventlet", "eventlet"),
        "gevent": ("kernel-pool-gevent", "gevent"),
        "prefork": ("kernel-pool-prefork", "prefork"),
        "processes": ("kernel-pool-prefork", "prefork"),
        "solo": ("kernel-pool-solo", "solo"),
        "threads": ("kernel-pool-threads", "threads"),
    },
    "schedulers": {},
}
