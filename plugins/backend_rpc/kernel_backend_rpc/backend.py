"""Results as messages to the process that called, over the broker's RabbitMQ."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import Final, NoReturn

from kernel_lib_amqp import AmqpServer
from kernel_lib_amqp.settings import broker_server

from kernel import errors
from kernel.interfaces import backend as api
from kernel.interfaces.backend import WON, ChordPart, ChordState, Record, StoreOutcome
from kernel.interfaces.setting import Setting
from kernel_backend_rpc import letters
from kernel_backend_rpc.inbox import Inbox
from kernel_backend_rpc.joins import Joins
from kernel_backend_rpc.sender import Sender
from kernel_backend_rpc.shelf import Shelf, lifetime
from kernel_backend_rpc.watch import RpcWatch

_MEMORY: Final = 256 * 1024 * 1024
_BROKERS: Final = ("amqp", "amqps", "pyamqp")


class RpcBackend:
    """Sends each record to its caller's reply queue (`Record.reply_to`), and keeps what came into its own. The parts of
    a chord lie in a queue of the chord."""

    interface = api.INTERFACE
    capabilities = api.BackendCapabilities(durable=False, groups=False, to_caller=True)
    settings: tuple[Setting, ...] = (
        Setting(
            "result_persistent", "bool", None, "Results that are sent as messages survive a restart of the broker."
        ),
    )
    transaction_domain: str | None = None

    def __init__(self, config: api.BackendConfig) -> None:
        self._config = config
        self.address = config.reply_to or str(uuid.uuid4())
        """The name of the reply queue of this process."""
        persistent = bool(config.settings.get("result_persistent"))
        server = _server(config)
        self._timeout = config.timeout
        self._codecs = config.codecs
        self._shelf = Shelf(codecs=config.codecs, most=_memory(config), lifetime=lifetime(config.expires))
        self._sender = Sender(server, timeout=config.timeout, persistent=persistent)
        self._inbox = Inbox(server, self._shelf, queue=self.address, expires=config.expires, persistent=persistent)
        chords = config.expires if config.chord_expires is None else config.chord_expires
        self._joins = Joins(server, timeout=config.timeout, lifetime=chords)
        self._lock = threading.Lock()
        self._watches: set[RpcWatch] = set()

    def open(self) -> None:
        """No connection yet: a process may send, or receive, or neither."""

    def close(self) -> None:
        with self._lock:
            watches = [*self._watches]
            inbox, self._inbox = self._inbox, self._inbox.anew()
        for watch in watches:
            watch.close()
        inbox.close()
        self._sender.close()
        self._joins.close()

    def expect(self, ids: Sequence[str]) -> None:
        """Called before calls leave whose replies are to come here: returns when they can. Raises
        `OperationalError`."""
        self._inbox.ensure()
        self._shelf.expect(ids)

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        """Send them. One that names no caller is for nobody."""
        replies = [
            (record.reply_to, record.id, letters.write(record, self._codecs)) for record in batch if record.reply_to
        ]
        if replies:
            try:
                self._sender.send(replies)
            except ValueError as exc:
                raise errors.BackendStoreError(f"a reply cannot be sent: {exc}") from exc
        return [WON] * len(batch)

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if not ids:
            return []
        if self._inbox.started:
            self._inbox.look()
        return self._shelf.load(ids)

    def watch(self, ids: Sequence[str] = ()) -> RpcWatch:
        self._inbox.ensure()
        self._inbox.want()
        watch = RpcWatch(self._shelf, self._inbox, self._forget_watch)
        with self._lock:
            self._watches.add(watch)
        watch.add(ids)
        return watch

    def _forget_watch(self, watch: RpcWatch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def forget(self, ids: Sequence[str]) -> None:
        """What has come in. A reply that comes later is kept as any other."""
        if ids and self._inbox.started:
            self._inbox.look()
        self._shelf.forget(ids)

    def save_group(self, group_id: str, document: str) -> None:
        _refuse("groups")

    def load_group(self, group_id: str) -> str | None:
        _refuse("groups")

    def forget_group(self, group_id: str) -> None:
        _refuse("groups")

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        for part in batch:
            api.check_part(part)
        return self._joins.add(batch)

    def grow_chord(self, chord_id: str, size: int, index: int) -> None:
        self._joins.grow(chord_id, index)

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        return self._joins.begin(chord_id, copy, number)

    def cleanup(self) -> int:
        """The server deletes what has expired."""
        return 0


def _server(config: api.BackendConfig) -> AmqpServer:
    broker = config.broker
    if broker is None or not broker.url.startswith(tuple(f"{scheme}:" for scheme in _BROKERS)):
        given = "no broker" if broker is None else f"the broker {broker.url.partition(':')[0]}://"
        raise errors.ImproperlyConfigured(
            f"rpc:// sends results over RabbitMQ, on the broker's own server, and there is {given}: give broker_url an "
            "amqp:// URL, or name another result_backend"
        )
    return broker_server(broker)


def _memory(config: api.BackendConfig) -> int:
    value = config.options.get("memory", _MEMORY)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise errors.InvalidSetting(
            f"result_backend_transport_options['memory'] is {value!r}; a number of bytes above 0 is needed"
        )
    return value


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"rpc:// keeps no {what}: each result goes to the process that called, and nobody else could read it. Name a "
        "result_backend that keeps records, such as redis:// or postgresql://"
    )
