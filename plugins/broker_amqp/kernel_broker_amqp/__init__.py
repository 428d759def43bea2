"""RabbitMQ broker for kernel."""

from __future__ import annotations

from kernel_broker_amqp.broker import AmqpBroker

__all__ = ["AmqpBroker"]
