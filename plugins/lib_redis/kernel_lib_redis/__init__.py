"""What the Redis broker and result backend share: URLs, connections, scripts, pub/sub."""

from __future__ import annotations

from kernel_lib_redis.faults import ConnectionLost, fault, unfitting
from kernel_lib_redis.findings import examine
from kernel_lib_redis.link import Link
from kernel_lib_redis.listener import Event, Listener
from kernel_lib_redis.lookout import Lookout
from kernel_lib_redis.script import Script
from kernel_lib_redis.server import RedisServer
from kernel_lib_redis.settings import backend_server, broker_server
from kernel_lib_redis.target import Target
from kernel_lib_redis.urls import Address, mask, parse

__all__ = [
    "Address",
    "ConnectionLost",
    "Event",
    "Link",
    "Listener",
    "Lookout",
    "RedisServer",
    "Script",
    "Target",
    "backend_server",
    "broker_server",
    "examine",
    "fault",
    "mask",
    "parse",
    "unfitting",
]
