"""Celery's settings for RabbitMQ, and the servers that they and the URLs come to."""

from __future__ import annotations

from typing import Final

from kernel.interfaces.broker import BrokerConfig
from kernel.interfaces.setting import Setting
from kernel_lib_amqp.server import STRATEGIES, AmqpServer

BROKER_SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("broker_use_ssl", "any", False, "TLS: True, or its options."),
    Setting("broker_heartbeat", "seconds", None, "Seconds between AMQP heartbeats; 30 when None, 0: none.", True),
    Setting("broker_login_method", "str", None, "AMQP login method: PLAIN (when None), AMQPLAIN, EXTERNAL.", True),
    Setting(
        "broker_failover_strategy",
        "str",
        None,
        "Order in which several URLs are tried: as they are written from the one that worked last, or shuffled.",
        True,
        (None, *STRATEGIES),
    ),
)


def broker_server(config: BrokerConfig) -> AmqpServer:
    """The server of a broker. What the transport options say goes before the settings, and what the URL says before
    both. Raises `ImproperlyConfigured` and its kinds."""
    options = {
        "ssl": config.settings.get("broker_use_ssl"),
        "heartbeat": config.settings.get("broker_heartbeat"),
        "login_method": config.settings.get("broker_login_method"),
        "failover_strategy": config.settings.get("broker_failover_strategy"),
        **{name: value for name, value in config.options.items() if value is not None},
    }
    return AmqpServer(config.url, timeout=config.timeout, options=options, name=config.app_name)
