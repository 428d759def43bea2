"""`Codecs`: the serializers and compressors an app accepts, and the bodies and results they make.

What arrives is bytes from a stranger. Its content type is looked up in the list of accepted ones before a single
byte is decoded or decompressed, no content type is trusted by itself, and no text codec is ever chosen by the
other side: a serializer gets bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from kernel import drivers, errors
from kernel.deferred import DeferredMessage
from kernel.drivers import entrypoints
from kernel.interfaces.serializer import Compressor, Serializer

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.extensions import Extensions
    from kernel.message import Message

Kind = Literal["serializer", "compressor"]
Finder = Callable[[Kind, str], Any]
Lister = Callable[[Kind], Iterable[str]]

_GROUPS: Final[Mapping[Kind, drivers.Kind]] = {"serializer": "serializers", "compressor": "compressors"}

EMPTY_EMBED: Final[Mapping[str, None]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

# Who makes the content types that Celery's peers send, so that an accepted type needs no search.
_KNOWN_TYPES: Final[Mapping[str, str]] = {
    "application/json": "json",
    "application/x-python-serialize": "pickle",
    "application/x-yaml": "yaml",
    "application/x-msgpack": "msgpack",
    "application/x-gzip": "zlib",
    "application/x-bz2": "bzip2",
    "application/x-lzma": "lzma",
    "application/x-brotli": "brotli",
    "application/zstd": "zstd",
}
# Decompressing costs memory even when it stops at the limit: a smaller bomb is told from a message by nothing.
_SMALLEST_LIMIT: Final = 1024


class Codecs:
    """Serializers and compressors by name and by content type, and what an app makes of them.

    `find(kind, name)` returns a driver instance for a name, or raises `DriverError`; `names(kind)` lists the
    names that are installed; `accept` and `accept_results` are `accept_content` and `result_accept_content`;
    `limit` is the largest body in bytes. Usable from any thread.
    """

    def __init__(
        self,
        *,
        find: Finder,
        names: Lister,
        accept: Sequence[str],
        accept_results: Sequence[str] | None = None,
        limit: int = 16 * 1024 * 1024,
        result_serializer: str = "json",
        result_compression: str | None = None,
    ) -> None:
        self._find = find
        self._names = names
        self._accept = tuple(accept)
        self._accept_results = tuple(accept if accept_results is None else accept_results)
        self._same = self._accept_results == self._accept
        self.limit = max(limit, _SMALLEST_LIMIT)
        self.result_serializer = result_serializer
        self.result_compression = result_compression
        self._serializers: dict[str, Serializer] = {}
        self._compressors: dict[str, Compressor] = {}
        self._accepted: dict[str, Serializer] | None = None
        self._accepted_results: dict[str, Serializer] | None = None
        self._inflaters: dict[str, Compressor] | None = None

    @classmethod
    def of(cls, conf: Settings, extensions: Extensions) -> Codecs:
        """What an app with these settings and plugins accepts; drivers are loaded when they are needed."""

        def find(kind: Kind, name: str) -> Any:
            try:
                return drivers.load(_GROUPS[kind], name, choices=conf.drivers)()
            except (errors.DriverNotFound, errors.DriverNotInstalled) as missing:
                found = extensions.decide("kernel_find_codec", kind=kind, name=name)
                if found is None:
                    raise missing from None
                return found

        def names(kind: Kind) -> Iterable[str]:
            return [offer.name for offer in entrypoints.offers(f"kernel.{_GROUPS[kind]}")]

        return cls(
            find=find,
            names=names,
            accept=conf.accept_content,
            accept_results=conf.result_accept_content,
            limit=conf.max_body,
            result_serializer=conf.result_serializer,
            result_compression=conf.result_compression,
        )

    # --- finding --------------------------------------------------------------------------------------------

    def serializer(self, name: str) -> Serializer:
        """The serializer of that name or content type. Raises `DriverError` when it cannot be had."""
        found = self._serializers.get(name)
        if found is None:
            found = cast("Serializer", self._find("serializer", _KNOWN_TYPES.get(name, name)))
            self._serializers[name] = found
        return found

    def takes_subclasses(self, name: str) -> bool:
        """Whether the serializer of that name encodes classes derived from dict and list as these."""
        return getattr(self.serializer(name), "takes_subclasses", False)

    def compressor(self, name: str) -> Compressor:
        """The compressor of that name or content type. Raises `DriverError` when it cannot be had."""
        found = self._compressors.get(name)
        if found is None:
            found = cast("Compressor", self._find("compressor", _KNOWN_TYPES.get(name, name)))
            self._compressors[name] = found
        return found

    def accepted(self) -> Mapping[str, Serializer]:
        """Content type → serializer of what messages may use; an accepted name that cannot be had raises."""
        if self._accepted is None:
            self._accepted = self._resolve(self._accept)
        return self._accepted

    def accepted_results(self) -> Mapping[str, Serializer]:
        """The same for results."""
        if self._same:
            return self.accepted()
        if self._accepted_results is None:
            self._accepted_results = self._resolve(self._accept_results)
        return self._accepted_results

    def unsafe(self) -> tuple[str, ...]:
        """Names of accepted serializers that may run a stranger's code."""
        both = {**self.accepted(), **self.accepted_results()}
        return tuple(sorted({codec.name for codec in both.values() if not codec.safe}))

    def _resolve(self, entries: Sequence[str]) -> dict[str, Serializer]:
        return {codec.content_type: codec for codec in map(self.serializer, entries)}

    # --- bodies of messages ---------------------------------------------------------------------------------

    def encode_body(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        embed: Mapping[str, Any] = EMPTY_EMBED,
        *,
        serializer: str = "json",
        compression: str | None = None,
    ) -> tuple[bytes, str, str, Mapping[str, Any]]:
        """``(body, content_type, content_encoding, headers)``, headers being what the body adds to them.

        Raises `EncodeError` when a value cannot be serialized, or when the body is over `limit` and will be
        compressed (whoever receives it would not inflate it), and `DriverError` for a codec that is not there.
        """
        codec = self._serializers.get(serializer) or self.serializer(serializer)
        # Serializers know tuples, lists and dictionaries, and not everything that may stand in for them.
        values = args if isinstance(args, tuple | list) else tuple(args)
        body = codec.dumps((values, kwargs if kwargs.__class__ is dict else dict(kwargs), embed))
        if compression is None:
            return body, codec.content_type, codec.content_encoding, {}
        press = self.compressor(compression)
        if len(body) > self.limit:
            raise errors.EncodeError(
                f"the arguments are {len(body)} bytes before compression; a worker inflates at most {self.limit}: "
                "raise the setting max_body everywhere, or pass a reference to the data"
            )
        return press.compress(body), codec.content_type, codec.content_encoding, {"compression": press.content_type}

    def decode_body(self, message: Message) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """``(args, kwargs, embed)`` of a message.

        Raises `ContentDisallowed` before anything is decoded, `PayloadTooLarge` or `DecodeError` for bytes
        that are not what they say, and `InvalidTaskError` for values that are no task's.
        """
        codec = self._accepted_codec(message.content_type, self.accepted(), "accept_content")
        if isinstance(message, DeferredMessage):
            # What is in its chain was checked when it was read.
            return message.unwritten.whole(_triple(codec.loads(message.unwritten.start)))
        body = message.body
        compression = message.header("compression")
        if compression is not None:
            body = self.inflate(body, compression)
        return _triple(codec.loads(body))

    def inflate(self, data: bytes, content_type: object) -> bytes:
        """`data` decompressed, at most `limit` bytes. Raises `DecodeError` also for an unknown compression."""
        if not isinstance(content_type, str):
            raise errors.DecodeError(f"header 'compression' is {content_type!r:.80}; a content type is needed")
        press = self._inflater(content_type)
        if press is None:
            raise errors.DecodeError(
                f"no compressor is installed for {content_type!r:.80}; "
                f"known: {', '.join(sorted(self._inflaters or ()))}"
            )
        return press.decompress(data, self.limit)

    def _inflater(self, content_type: str) -> Compressor | None:
        table = self._inflaters
        if table is None:
            table = self._install_inflaters()
        found = table.get(content_type)
        if found is None:
            # A stranger chooses this name: it is looked up and, unless it is there, not remembered.
            try:
                found = cast("Compressor", self._find("compressor", content_type))
            except errors.DriverError:
                return None
            table[content_type] = found
        return found

    def _install_inflaters(self) -> dict[str, Compressor]:
        table: dict[str, Compressor] = {}
        for name in self._names("compressor"):
            try:
                press = self.compressor(name)
            except errors.DriverError:
                # One that cannot be loaded inflates nothing; whoever names it gets the reason.
                continue
            table[press.content_type] = press
        self._inflaters = table
        return table

    def _accepted_codec(self, content_type: str, accepted: Mapping[str, Serializer], setting: str) -> Serializer:
        codec = accepted.get(content_type)
        if codec is None:
            raise errors.ContentDisallowed(
                f"content of type {content_type!r:.80} is refused: {setting} allows "
                f"{', '.join(sorted(accepted)) or 'nothing'}. Add its serializer to {setting} only if you trust "
                "everyone who can publish"
            )
        return codec

    # --- results --------------------------------------------------------------------------------------------

    def encode_result(self, value: Any, serializer: str | None = None) -> tuple[bytes, str, str]:
        """``(data, content_type, content_encoding)`` of a result. Raises `EncodeError`."""
        codec = self.serializer(serializer or self.result_serializer)
        return codec.dumps(value), codec.content_type, codec.content_encoding

    def decode_result(self, data: bytes, content_type: str, content_encoding: str = "utf-8") -> Any:
        """The value of a stored result. Raises `ContentDisallowed` and `DecodeError`.

        `content_encoding` is what the record says; it is never used to pick a codec.
        """
        setting = "accept_content" if self._same else "result_accept_content"
        return self._accepted_codec(content_type, self.accepted_results(), setting).loads(data)

    def press_result(self, data: bytes) -> tuple[bytes, str] | None:
        """`data` compressed as `result_compression` says, and its content type; None when that is not set, and for
        more than `limit` bytes, which nobody would inflate. Raises `DriverError`."""
        if self.result_compression is None or len(data) > self.limit:
            return None
        press = self.compressor(self.result_compression)
        return press.compress(data), press.content_type


def _triple(value: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The three parts of a decoded body, if that is what it is."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise errors.InvalidTaskError(f"the body is a {_kind(value)}; [args, kwargs, embed] is needed")
    args, kwargs, embed = value
    if args.__class__ is list and kwargs.__class__ is embed.__class__ is dict and not kwargs and embed == EMPTY_EMBED:
        return args, kwargs, embed  # most of them
    if args is None:
        args = []
    if kwargs is None:
        kwargs = {}
    if not isinstance(args, list | tuple):
        raise errors.InvalidTaskError(f"args in the body is a {_kind(args)}; a list is needed")
    if not isinstance(kwargs, dict):
        raise errors.InvalidTaskError(f"kwargs in the body is a {_kind(kwargs)}; a dictionary is needed")
    for name in kwargs:
        if name.__class__ is not str:
            raise errors.InvalidTaskError(f"a key of kwargs is a {_kind(name)}; texts are needed")
    if embed is None:
        return list(args), kwargs, dict(EMPTY_EMBED)
    if not isinstance(embed, dict):
        raise errors.InvalidTaskError(f"embed in the body is a {_kind(embed)}; a dictionary or null is needed")
    for name in ("callbacks", "errbacks", "chain"):
        _check_signatures(name, embed.get(name))
    chord = embed.get("chord")
    if chord is not None and not isinstance(chord, dict):
        raise errors.InvalidTaskError(f"chord in the body is a {_kind(chord)}; a signature is needed")
    return list(args), kwargs, embed


def _check_signatures(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        raise errors.InvalidTaskError(f"{name} in the body is a {_kind(value)}; a list of signatures or null is needed")


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict | str | bytes) else ""
    return f"{type(value).__name__}{size}"
