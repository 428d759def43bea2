"""Options of the transport: which there are, what they take, and which have nothing to do here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kernel import errors


@dataclass(frozen=True, slots=True)
class _Kind:
    """`read` makes a value of an URL's text; `fits` tells a right one."""

    right: str
    read: Callable[[str], Any]
    fits: Callable[[Any], bool]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(text: str) -> bool:
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    return known[text.lower()]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_TEXT: Final = _Kind("a text", str, _is_text)
_NAME: Final = _Kind("a text that is not empty", str, lambda value: isinstance(value, str) and value != "")
_SECONDS: Final = _Kind("a number of seconds above 0", float, lambda value: _number(value) and value > 0)
_PAUSE: Final = _Kind("a number of seconds (0: never)", float, lambda value: _number(value) and value >= 0)
_COUNT: Final = _Kind("a whole number from 1 on", int, lambda value: _whole(value) and value >= 1)
_NATURAL: Final = _Kind("a whole number from 0 on", int, lambda value: _whole(value) and value >= 0)
_SWITCH: Final = _Kind("True or False", _flag, lambda value: isinstance(value, bool))
_DICT: Final = _Kind("a dictionary", str, lambda value: isinstance(value, Mapping))
_ANY: Final = _Kind("any value", str, lambda value: True)
_PREFIX: Final = _Kind("True, False or a text", str, lambda value: isinstance(value, bool | str))
_STEPS: Final = _Kind(
    "a list of whole numbers from 0 on",
    str,
    lambda value: isinstance(value, list | tuple) and bool(value) and all(_whole(step) and step >= 0 for step in value),
)

_CONNECTION: Final[Mapping[str, _Kind]] = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _SWITCH,
    "health_check_interval": _PAUSE,
    "max_connections": _COUNT,
    "client_name": _NAME,
    "username": _TEXT,
    "password": _TEXT,
    "credential_provider": _ANY,
    "db": _NATURAL,
}
TLS_OPTIONS: Final[Mapping[str, _Kind]] = {
    "ssl_cert_reqs": _ANY,
    "ssl_ca_certs": _NAME,
    "ssl_ca_path": _NAME,
    "ssl_ca_data": _NAME,
    "ssl_certfile": _NAME,
    "ssl_keyfile": _NAME,
    "ssl_password": _TEXT,
    "ssl_check_hostname": _SWITCH,
    "ssl_ciphers": _NAME,
    "ssl_min_version": _ANY,
}
URL_OPTIONS: Final[Mapping[str, _Kind]] = {**_CONNECTION, **TLS_OPTIONS, "retry_on_timeout": _SWITCH}
"""What the query of a URL may hold."""

OPTIONS: Final[Mapping[str, _Kind]] = {
    **_CONNECTION,
    "socket_keepalive_options": _DICT,
    "global_keyprefix": _TEXT,
    "sep": _NAME,
    "priority_steps": _STEPS,
    "fanout_prefix": _PREFIX,
    "visibility_timeout": _SECONDS,
    "master_name": _NAME,
    "sentinel_kwargs": _DICT,
    "min_other_sentinels": _NATURAL,
}

_OWN_CLAIMS: Final = "a claim here is one step on the server, and lies under names of our own"
_ALWAYS: Final = "what may be repeated is repeated once over a new connection, and the caller goes on from there"
_RETRIES: Final = "the worker and the publisher repeat by themselves until the server is back"

# Name, why it has no effect, and the values that ask for what is done anyway.
_KEPT: Final[Mapping[str, tuple[str, tuple[object, ...]]]] = {
    "ack_emulation": (_OWN_CLAIMS, (True,)),
    "unacked_key": (_OWN_CLAIMS, ()),
    "unacked_index_key": (_OWN_CLAIMS, ()),
    "unacked_mutex_key": (_OWN_CLAIMS, ()),
    "unacked_mutex_expire": (_OWN_CLAIMS, ()),
    "unacked_restore_limit": (_OWN_CLAIMS, ()),
    "unacked_restore_interval": (_OWN_CLAIMS, ()),
    "unacked_restore_throttle": (_OWN_CLAIMS, ()),
    "queue_order_strategy": ("the queues of a worker take turns, so that none waits for another", ("round_robin",)),
    "fanout_patterns": ("a broadcast has no routing key here", (True,)),
    "sentinel_fanout_compat": ("broadcasts use the names of kombu 5.4 and later", (False,)),
    "polling_interval": ("a worker is woken by what comes", ()),
    "reauth_check_interval": ("a new connection asks the credential provider again", ()),
    "retry_on_timeout": (_ALWAYS, (True, False)),
    "retry_policy": (_RETRIES, ()),
    "max_retries": (_RETRIES, ()),
    "interval_start": (_RETRIES, ()),
    "interval_step": (_RETRIES, ()),
    "interval_max": (_RETRIES, ()),
    "connect_retries_timeout": (_RETRIES, ()),
    "body_encoding": ("bodies are base64, as Celery's are by default", ("base64",)),
    "deadletter_queue": ("what cannot run is kept as a dead letter: `kernel dead` lists them", ()),
    "result_chord_ordered": ("the parts of a chord are always in order", (True,)),
    "additional_connection_errors": ("every error of the connection is healed already", ()),
    "confirm_publish": ("Redis answers every command, and the answer is waited for", (True,)),
    "consumer_timeout": ("it is RabbitMQ's", ()),
}


def checked(options: Mapping[str, Any], setting: str) -> tuple[dict[str, Any], list[str]]:
    """The options that count, and a text for each one that has no effect. An option of None is as good as none.

    `setting` is the name of the setting they are from. Raises `UnknownSetting` and `InvalidSetting`.
    """
    found: dict[str, Any] = {}
    idle: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if (kind := OPTIONS.get(name)) is not None:
            if not kind.fits(value):
                raise errors.InvalidSetting(f"{setting}[{name!r}] is {_shown(name, value)}; {kind.right} is needed")
            found[name] = value
        elif name in _KEPT:
            why, silent = _KEPT[name]
            if value not in silent:
                idle.append(f"{setting}[{name!r}] is kept but has no effect on Redis: {why}")
        else:
            raise errors.UnknownSetting(
                f"there is no option {name!r} of Redis (from {setting}){nearest(str(name), (*OPTIONS, *_KEPT))}"
            )
    return found, idle


def checked_tls(options: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """Raises `UnknownSetting` and `InvalidSetting`, as `checked` does."""
    for name, value in options.items():
        if name not in TLS_OPTIONS:
            wanted = name if str(name).startswith("ssl_") else f"ssl_{name}"
            raise errors.UnknownSetting(
                f"there is no TLS option {name!r} of Redis (from {setting}){nearest(wanted, TLS_OPTIONS)}"
            )
        if value is not None and not TLS_OPTIONS[name].fits(value):
            raise errors.InvalidSetting(
                f"{setting}[{name!r}] is {_shown(name, value)}; {TLS_OPTIONS[name].right} is needed"
            )
    return dict(options)


def from_text(name: str, text: str) -> Any:
    """The value of a parameter of a URL. Raises ValueError."""
    kind = URL_OPTIONS[name]
    try:
        value = kind.read(text)
    except (ValueError, KeyError):
        value = None
    if value is None or not kind.fits(value):
        raise ValueError(f"the parameter {name} is {_shown(name, text)}; {kind.right} is needed")
    return value


def nearest(name: str, known: Collection[str]) -> str:
    """`. Did you mean ...?`, or what there is."""
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.7)
    return f". Did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(sorted(known))}"


def _shown(name: str, value: object) -> str:
    """A value, unless there may be a password in it."""
    if name == "password":
        return "no text"
    return f"of the type {type(value).__name__}" if name in ("sentinel_kwargs", "ssl_password") else repr(value)
