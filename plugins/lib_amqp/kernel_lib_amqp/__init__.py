"""What the RabbitMQ broker and the rpc result backend share: URLs, connections, frames."""

from __future__ import annotations

from kernel_lib_amqp.faults import Blocked, ChannelClosed, ConnectionLost
from kernel_lib_amqp.server import AmqpServer
from kernel_lib_amqp.urls import Target, mask, parse
from kernel_lib_amqp.wire import Wire

__all__ = ["AmqpServer", "Blocked", "ChannelClosed", "ConnectionLost", "Target", "Wire", "mask", "parse"]
