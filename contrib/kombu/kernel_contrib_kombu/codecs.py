"""The hook plugin, and the two adapters it answers with."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final, Literal

from kernel import errors
from kernel.hooks import hookimpl
from kernel.interfaces.place import failing_place, type_name
from kernel.interfaces.sender import Sender
from kernel.interfaces.serializer import INTERFACE, Compressor, Serializer

# What kombu brings itself. Our drivers do the same with bounds on memory and depth, which kombu's functions have
# not: where such a driver is missing, "install it" is the better answer.
_OWN: Final = frozenset(
    {
        "json",
        "application/json",
        "yaml",
        "application/x-yaml",
        "pickle",
        "application/x-python-serialize",
        "msgpack",
        "application/x-msgpack",
        "gzip",
        "zlib",
        "application/x-gzip",
        "bzip",
        "bzip2",
        "application/x-bz2",
        "lzma",
        "xz",
        "application/x-lzma",
        "brotli",
        "application/x-brotli",
        "zstd",
        "zstandard",
        "application/zstd",
    }
)


class KombuCodecs:
    """Answers `kernel_find_codec` from kombu's registries. What is decoded is still `accept_content`'s to say.

    And `kernel_find_sender` for connections and producers of kombu's.
    """

    @hookimpl
    def kernel_find_sender(self, given: object) -> Sender | None:
        # Whoever has an object of kombu's has imported it.
        if "kombu" not in sys.modules:
            return None
        from kernel_contrib_kombu.sender import sender_of

        return sender_of(given)

    @hookimpl
    def kernel_find_codec(self, kind: Literal["serializer", "compressor"], name: str) -> Serializer | Compressor | None:
        if name in _OWN:
            return None
        return _find_serializer(name) if kind == "serializer" else _find_compressor(name)


def _find_serializer(name: str) -> Serializer | None:
    registry = _registry()
    name = registry.type_to_name.get(name, name)
    content_type = registry.name_to_type.get(name)
    if content_type is None:
        return None
    # kombu tells the encoding of a serializer by encoding something, or here.
    codec = registry._encoders.get(name)
    return KombuSerializer(name, content_type, "utf-8" if codec is None else codec.content_encoding)


def _registry() -> Any:
    return importlib.import_module("kombu.serialization").registry


def _find_compressor(name: str) -> Compressor | None:
    compression: Any = importlib.import_module("kombu.compression")
    try:
        encode, content_type = compression.get_encoder(name)
        decode = compression.get_decoder(content_type)
    except KeyError:
        return None
    return KombuCompressor(name, content_type, encode, decode)


class KombuSerializer:
    """See `kernel.interfaces.serializer.Serializer`. Nothing is known of the function behind it: not `safe`."""

    interface = INTERFACE
    safe = False

    def __init__(self, name: str, content_type: str, content_encoding: str) -> None:
        self.name = name
        self.content_type = content_type
        self.content_encoding = content_encoding

    def dumps(self, value: Any) -> bytes:
        try:
            return self._encode(value)
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            path, place = failing_place(value, self._encode)
            raise errors.EncodeError(
                f"{path} is of type {type_name(place)}, and kombu's serializer {self.name!r} cannot encode it: {exc}"
            ) from exc

    def loads(self, data: bytes) -> Any:
        if not data:
            # kombu gives nothing back for nothing, whatever the content type.
            raise errors.DecodeError(f"no bytes where kombu's serializer {self.name!r} should have written some")
        try:
            # Whether this content type may be decoded was decided by the caller; kombu's own list of disabled
            # types is a second opinion about the same thing, and is not asked.
            return _registry().loads(data, self.content_type, self.content_encoding, force=True)
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise errors.DecodeError(
                f"kombu's serializer {self.name!r} cannot decode these {len(data)} bytes: {exc}"
            ) from exc

    def _encode(self, value: Any) -> bytes:
        _, _, payload = _registry().dumps(value, self.name)
        return payload.encode("utf-8") if isinstance(payload, str) else bytes(payload)


class KombuCompressor:
    """See `kernel.interfaces.serializer.Compressor`.

    kombu's decoders take the whole input and give the whole output: what is too large is refused once it is
    there, and not before.
    """

    interface = INTERFACE

    def __init__(
        self, name: str, content_type: str, encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]
    ) -> None:
        self.name = name
        self.content_type = content_type
        self._encode = encode
        self._decode = decode

    def compress(self, data: bytes) -> bytes:
        return self._encode(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        if len(data) > limit:
            raise errors.PayloadTooLarge(f"{len(data)} bytes of {self.content_type} data; the limit is {limit}")
        try:
            output = self._decode(data)
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            raise errors.DecodeError(f"damaged {self.content_type} data ({len(data)} bytes): {exc}") from exc
        if len(output) > limit:
            raise errors.PayloadTooLarge(f"{self.content_type} data of {len(data)} bytes inflates to {len(output)}")
        return output
