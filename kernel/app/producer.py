"""`Producer`: publishes over one connection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kernel.app.connection import Connection
from kernel.message import Message, Publication
from kernel.plan import is_persistent, queue_name

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Producer:
    """Hands what is published with it to one connection: ``apply_async(producer=...)``.

    Made of a `Connection` of ours, which stays the caller's; one of a `ProducerPool` goes back there when it is
    released, with its connection. `serializer`, `compression`, `exchange` and `routing_key` are what `publish`
    uses when it is given none. As a context manager it is released at the end.
    """

    def __init__(
        self,
        connection: Connection,
        exchange: Any = None,
        routing_key: str | None = None,
        serializer: str | None = None,
        auto_declare: bool | None = None,
        compression: str | None = None,
        on_return: Any = None,
        *,
        pooled: bool = False,
    ) -> None:
        if not isinstance(connection, Connection):
            raise TypeError(
                f"a Producer is made of a connection of this app's, such as app.connection_for_write() or one of "
                f"app.pool; got {connection!r:.80}. Objects of kombu's are for apply_async(producer=...) or "
                "(connection=...) themselves"
            )
        self.connection = connection
        self.exchange = exchange
        self.routing_key = routing_key
        self.serializer = serializer
        self.compression = compression
        self.auto_declare = auto_declare is not False
        self._pooled = pooled

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Any = None,
        retry: bool | None = False,
        retry_policy: Mapping[str, Any] | None = None,
        declare: Iterable[Any] = (),
        expiration: float | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **properties: Any,
    ) -> None:
        """Publish a message as it is, without making a task message of it; stored when this returns.

        `body` is bytes or text with a `content_type`, or any value that `serializer` takes; `routing_key` is the
        name of the queue where there is no exchange. `expiration` is in seconds. Raises what `Publisher.send` raises.
        """
        app = self.connection.app
        payload, kind, encoding, added = self._encoded(body, content_type, content_encoding, serializer, compression)
        key = routing_key or self.routing_key or ""
        place = exchange if exchange is not None else self.exchange
        mode = app.conf.task_default_delivery_mode if delivery_mode is None else delivery_mode
        persistent = is_persistent(mode)
        props = {"delivery_mode": 2 if persistent else 1, "priority": priority, **properties}
        if expiration is not None:
            props["expiration"] = str(max(0, round(expiration * 1000)))
        publication = Publication(
            Message(
                {**(headers or {}), **added}, payload, content_type=kind, content_encoding=encoding, properties=props
            ),
            queue_name(key),
            priority=priority,
            expires=None if expiration is None else time.time() + expiration,
            exchange=place if isinstance(place, str) else getattr(place, "name", None) or "",
            routing_key=key,
            persistent=persistent,
        )
        app.publisher.send(
            (publication,),
            retry=bool(retry),
            policy=retry_policy,
            way=self.connection,
            timeout=timeout or confirm_timeout,
        )

    def _encoded(
        self, body: Any, content_type: str | None, encoding: str | None, serializer: str | None, compression: str | None
    ) -> tuple[bytes, str, str, dict[str, Any]]:
        codecs = self.connection.app.codecs
        if content_type is not None or (serializer is None and isinstance(body, bytes | str)):
            payload = body.encode() if isinstance(body, str) else bytes(body)
            kind = content_type or ("text/plain" if isinstance(body, str) else "application/data")
            encoding = encoding or ("utf-8" if isinstance(body, str) else "binary")
        else:
            codec = codecs.serializer(serializer or self.serializer or self.connection.app.conf.task_serializer)
            payload, kind, encoding = codec.dumps(body), codec.content_type, codec.content_encoding
        press = compression or self.compression
        if press is None:
            return payload, kind, encoding, {}
        compressor = codecs.compressor(press)
        return compressor.compress(payload), kind, encoding, {"compression": compressor.content_type}

    def revive(self, channel: Connection) -> None:
        """Publish over another connection from now on."""
        self.connection = channel

    def release(self) -> None:
        """Back to the pool it is from, with its connection; else nothing. Called again it does nothing."""
        if self._pooled:
            self._pooled = False
            self.connection.release()

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Producer over {self.connection!r}>"
