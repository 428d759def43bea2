"""A server, or several that stand in for each other, and the connections to it."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Final

from kernel import errors
from kernel_lib_amqp.urls import Target, parse
from kernel_lib_amqp.wire import Wire

STRATEGIES: Final = ("round-robin", "shuffle")
_METHODS: Final = ("PLAIN", "AMQPLAIN", "EXTERNAL")
_HEARTBEAT: Final = 30.0


class AmqpServer:
    """Makes connections, and keeps heartbeats going on them. Usable from any thread.

    Of several hosts the one that worked last is tried first, then the others in their order, or shuffled where the
    option ``failover_strategy`` says so. Raises `ImproperlyConfigured` and its kinds for options that are wrong.
    """

    def __init__(self, urls: str, *, timeout: float, options: Mapping[str, Any] | None = None, name: str = "") -> None:
        options = options or {}
        self.targets: tuple[Target, ...] = parse(urls, options=options)
        self.timeout = _seconds(options, "connect_timeout", timeout)
        self.heartbeat = self.targets[0].heartbeat or _seconds(options, "heartbeat", _HEARTBEAT)
        self._name = name
        self._login = _choice(options, "login_method", _METHODS)
        self._shuffled = _choice(options, "failover_strategy", STRATEGIES) == "shuffle"
        self._properties: Mapping[str, Any] = options.get("client_properties") or {}
        self._first = random.randrange(len(self.targets)) if self._shuffled else 0
        self._beats = Heartbeats()

    @property
    def shown(self) -> str:
        """For texts that people read; without passwords."""
        return ";".join(target.shown for target in self.targets)

    def connect(self, heartbeat: float | None = None, role: str = "") -> Wire:
        """A new connection. Raises `OperationalError` within the timeout, or `ImproperlyConfigured`."""
        fault: errors.KernelError | None = None
        count = len(self.targets)
        limit = self.timeout / count if count > 1 else self.timeout
        for at in self._order():
            try:
                wire = Wire(
                    self.targets[at],
                    timeout=limit,
                    heartbeat=self.heartbeat if heartbeat is None else heartbeat,
                    name=f"{self._name} {role}".strip(),
                    login_method=self._login,
                    properties=self._properties,
                )
            except errors.KernelError as exc:
                fault = exc
            else:
                wire.timeout = self.timeout
                self._first = at
                self._beats.add(wire)
                return wire
        assert fault is not None
        raise fault

    def _order(self) -> list[int]:
        count = len(self.targets)
        others = [(self._first + step) % count for step in range(1, count)]
        if self._shuffled:
            random.shuffle(others)
        return [self._first, *others]


class Heartbeats:
    """A thread that sends heartbeats for connections while nobody else writes; it ends with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wires: weakref.WeakSet[Wire] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()

    def add(self, wire: Wire) -> None:
        if not wire.heartbeat:
            return
        with self._lock:
            self._wires.add(wire)
            self._changed.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="kernel-amqp-heartbeat", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                wires = [wire for wire in self._wires if wire.lost is None]
                if not wires:
                    self._thread = None
                    return
                self._changed.clear()
            now = time.monotonic()
            pause = min(max(0.05, wire.sent_at + wire.heartbeat / 2 - now) for wire in wires)
            del wires
            self._changed.wait(min(pause, 5.0))
            for wire in tuple(self._wires):
                if wire.lost is None:
                    self._beat(wire)

    def _beat(self, wire: Wire) -> None:
        try:
            wire.beat()
        except errors.OperationalError:
            # Whoever reads it finds out by itself.
            return


def _seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise errors.InvalidSetting(f"broker_transport_options[{name!r}] is {value!r}; seconds are needed")
    return float(value)


def _choice(options: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str | None:
    value = options.get(name)
    if value is not None and value not in known:
        raise errors.InvalidSetting(f"{name} of the broker is {value!r}; it is one of {', '.join(known)}, or None")
    return str(value) if value is not None else None
