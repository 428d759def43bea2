"""A consumer as the server knows it: whoever holds claims."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from kernel_lib_redis import RedisServer, Script

from kernel.interfaces.broker import ConsumeOptions, Delivery
from kernel_broker_redis.layout import Layout


class Owner:
    """`name` is for people, `id` is new for each consumer, `lease` is in milliseconds and `seconds` the same.
    Usable from any thread."""

    def __init__(self, server: RedisServer, layout: Layout, options: ConsumeOptions) -> None:
        self.server = server
        self.layout = layout
        self.id = uuid.uuid4().hex
        self.name = options.owner
        self.seconds = options.lease
        self.lease = max(1, round(options.lease * 1000))

    def run(self, script: Script, *args: object, fits: Callable[[Any], bool] | None = None) -> Any:
        """Run a script in its name, once (`RedisServer.script`)."""
        return self.server.script(script, self.layout.prefix, self.layout.sep, self.id, *args, fits=fits)

    def has(self, delivery: Delivery) -> bool:
        """Whether the claim was made by this consumer."""
        return delivery.token.startswith(self.id)
