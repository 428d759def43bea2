"""A topic, heard on a thread, since that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from kernel.interfaces.broker import Broker, Subscription
from kernel.message import Message

_READ_SECONDS: Final = 5.0
_AT_ONCE: Final = 100


class Hearing:
    """Hands what comes to `take`. Whatever fails, `failed` is told of it and it is tried again after `pause` seconds:
    without this thread the worker would go on deaf. `works` is called whenever there is a subscription. Usable from any
    thread."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        *,
        name: str,
        take: Callable[[Sequence[Message]], None],
        failed: Callable[[Exception], None],
        works: Callable[[], None] = lambda: None,
        pause: float,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._take = take
        self._failed = failed
        self._works = works
        self._pause = pause
        self._subscription: Subscription | None = None
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def subscribe(self) -> None:
        """Hear what is sent from now on; before `start`. Raises `OperationalError`."""
        self._subscription = self._broker.subscribe(self._topic)

    def start(self) -> None:
        """Hear what is sent, from the first subscription on, as soon as there can be one."""
        self._thread.start()

    def stop(self) -> None:
        """End it: a waiting read returns when its subscription is closed."""
        self.stopped.set()
        subscription = self._subscription
        if subscription is not None:
            subscription.close()

    def join(self, timeout: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                subscription = self._subscription = self._subscription or self._broker.subscribe(self._topic)
                try:
                    self._works()
                    while not self.stopped.is_set():
                        messages = subscription.read(_AT_ONCE, _READ_SECONDS)
                        if messages:
                            self._take(messages)
                finally:
                    self._subscription = None
                    subscription.close()
            except Exception as exc:  # of any kind
                if not self.stopped.wait(self._pause):
                    self._failed(exc)
