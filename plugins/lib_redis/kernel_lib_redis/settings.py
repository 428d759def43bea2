"""Celery's settings for Redis, and the servers that they and the URLs come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kernel import errors
from kernel.interfaces.backend import BackendConfig
from kernel.interfaces.broker import BrokerConfig
from kernel.interfaces.setting import Setting
from kernel_lib_redis.server import RedisServer

BROKER_SETTINGS: Final[tuple[Setting, ...]] = (Setting("broker_use_ssl", "any", False, "TLS: True, or its options."),)

BACKEND_SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("redis_backend_use_ssl", "any", None, "TLS of the Redis backend: True, or its options.", True),
    Setting(
        "redis_backend_health_check_interval",
        "seconds",
        None,
        "Idle connections are checked before use after so long; 25 s by default, 0: never.",
        True,
    ),
    Setting(
        "redis_backend_credential_provider",
        "any",
        None,
        "A `redis.CredentialProvider`, its class, or the path of either.",
        True,
    ),
    Setting("redis_client_name", "str", None, "Name of the connections, as `CLIENT LIST` shows it.", True),
    Setting("redis_host", "str", None, "Host when the URL names none.", True),
    Setting("redis_port", "int", None, "Port when the URL names none.", True),
    Setting("redis_db", "int", None, "Database when the URL names none.", True),
    Setting("redis_username", "str", None, "User when the URL has no login.", True),
    Setting("redis_password", "str", None, "Password when the URL has no login.", True, secret=True),
    Setting(
        "redis_max_connections", "int", None, "Most connections in use at once; without, as many as threads.", True
    ),
    Setting(
        "redis_socket_timeout",
        "seconds",
        None,
        "Longest wait for an answer; `broker_connection_timeout` without.",
        True,
    ),
    Setting(
        "redis_socket_connect_timeout",
        "seconds",
        None,
        "Longest wait for a connection; `broker_connection_timeout` without.",
        True,
    ),
    Setting(
        "redis_retry_on_timeout",
        "bool",
        False,
        "Kept without effect: what may be repeated is repeated after a timeout anyway.",
    ),
    Setting("redis_socket_keepalive", "bool", None, "TCP keepalive; on unless it is False.", True),
)
_BY_OPTION: Final = {
    "health_check_interval": "redis_backend_health_check_interval",
    "credential_provider": "redis_backend_credential_provider",
    "client_name": "redis_client_name",
    "host": "redis_host",
    "port": "redis_port",
    "db": "redis_db",
    "username": "redis_username",
    "password": "redis_password",
    "max_connections": "redis_max_connections",
    "socket_timeout": "redis_socket_timeout",
    "socket_connect_timeout": "redis_socket_connect_timeout",
    "socket_keepalive": "redis_socket_keepalive",
}


def broker_server(config: BrokerConfig) -> RedisServer:
    """The server of a broker. Raises `ImproperlyConfigured` and its kinds."""
    return RedisServer(
        config.url, timeout=config.timeout, options=config.options, tls=config.settings.get("broker_use_ssl")
    )


def backend_server(config: BackendConfig) -> RedisServer:
    """The server of a result backend. Raises `ImproperlyConfigured` and its kinds."""
    return RedisServer(
        config.url,
        timeout=config.timeout,
        options=config.options,
        setting="result_backend_transport_options",
        tls=config.settings.get("redis_backend_use_ssl"),
        tls_setting="redis_backend_use_ssl",
        defaults=_defaults(config.settings),
    )


def _defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = {option: settings.get(name) for option, name in _BY_OPTION.items()}
    for option, value in found.items():
        if why := _fault(option, value):
            raise errors.InvalidSetting(f"{_BY_OPTION[option]} is {value!r}; {why} is needed")
    return {option: value for option, value in found.items() if value is not None}


def _fault(option: str, value: Any) -> str:
    """What would be right, where the type of a setting alone does not say it."""
    if option == "port" and value is not None and not 0 < value < 65536:
        return "a number from 1 to 65535, or None,"
    if option == "db" and value is not None and value < 0:
        return "a number from 0 on, or None,"
    if option in ("max_connections", "socket_timeout", "socket_connect_timeout") and value is not None and value <= 0:
        return "a number above 0, or None,"
    return ""
