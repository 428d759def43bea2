"""Bytes that should do no harm: they would run code, nest without end, or inflate without end."""

from __future__ import annotations

import bz2
import importlib.util
import json
import lzma
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

_ZEROS: Final = 32 * 2**20


class _Touch:
    """Creates the file `path` when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def canary_pickle(path: str) -> bytes:
    """A pickle that creates the file `path` when it is loaded."""
    return pickle.dumps([[_Touch(path)], {}, None])


def canary_yaml(path: str) -> bytes:
    """A YAML document that creates the file `path` when it is loaded without care."""
    return f"- [!!python/object/apply:builtins.open [{json.dumps(path)}, w]]\n- {{}}\n- null\n".encode()


def canaries(path: str) -> Iterator[bytes]:
    """Payloads of several formats that create the file `path` in the hands of a careless decoder."""
    yield canary_pickle(path)
    yield pickle.dumps(_Touch(path), protocol=0)
    yield canary_yaml(path)
    for tag in ("object/new", "object/apply"):
        yield f"!!python/{tag}:builtins.open [{json.dumps(path)}, w]".encode()
    yield b"!!python/object/apply:os.system [" + json.dumps(f"touch {path}").encode() + b"]"
    yield b"!!python/name:os.system ''"
    code = f"open({path!r}, 'w')"
    yield json.dumps({"py/reduce": [{"py/function": "builtins.eval"}, {"py/tuple": [code]}]}).encode()
    yield json.dumps({"__type__": "eval", "__value__": code}).encode()
    yield json.dumps({"__reduce__": ["builtins.eval", [code]]}).encode()
    nested = canary_pickle(path)
    if len(nested) < 256:
        # MessagePack extensions of every number, with a pickle inside.
        for kind in range(0, 256, 5):
            yield bytes((0xC7, len(nested), kind)) + nested


def nests(depth: int) -> Iterator[bytes]:
    """Documents that nest `depth` levels or announce more than they hold, and numbers of `depth` digits."""
    yield b"[" * depth
    yield b"[" * depth + b"]" * depth
    yield b'{"a":' * depth
    yield b'{"a":' * depth + b"1" + b"}" * depth
    yield b"- " * depth
    yield b"? " * depth
    yield b"{a: " * depth
    yield b"\x91" * depth + b"\xc0"
    yield b"\x81\xc0" * depth
    yield b"\xdc\xff\xff" * 1000 + b"\xc0" * 70_000
    yield b"\xdd\x7f\xff\xff\xff" * 1000
    yield b"\xc6\xff\xff\xff\xff"
    yield b"9" * depth
    yield b"[[" + b"9" * depth + b"], {}, null]"
    yield b"1" + b":59" * depth
    yield b'{"__type__":"' * depth
    laughs = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    merges = [b"a0: &a0 {k: v}"]
    for level in range(1, 12):
        above = b",".join([b"*a%d" % (level - 1)] * 9)
        laughs.append(b"a%d: &a%d [%s]" % (level, level, above))
        merges.append(b"a%d: &a%d {<<: [%s]}" % (level, level, above))
    yield b"\n".join(laughs)
    yield b"\n".join(merges)


def bombs(only: str | None = None) -> Iterator[tuple[str, bytes]]:
    """``(content type, data)`` that inflates to 32 MiB, or asks for gigabytes, for every compressor that can be
    had, or for the content type `only`."""
    zeros = bytes(_ZEROS)
    for content_type, package, compress in _COMPRESSORS:
        if only in (None, content_type) and importlib.util.find_spec(package) is not None:
            yield content_type, compress(zeros)
    if only in (None, "application/x-gzip"):
        yield "application/x-gzip", zlib.compress(zlib.compress(zeros))
    if only in (None, "application/x-lzma"):
        yield "application/x-lzma", lzma_of_4_gib()
    if only in (None, "application/zstd"):
        yield "application/zstd", zstd_of_2_gib()


def squeezed(data: bytes) -> Iterator[tuple[str, bytes]]:
    """``(content type, compressed data)`` for every compressor that can be had."""
    for content_type, package, compress in _COMPRESSORS:
        if importlib.util.find_spec(package) is not None:
            yield content_type, compress(data)


def lzma_of_4_gib() -> bytes:
    """An .lzma header that asks for a dictionary of 4 GiB."""
    return b"\x5d" + b"\xff\xff\xff\xff" + b"\xff" * 8 + b"\x00" * 64


def zstd_of_2_gib() -> bytes:
    """A Zstandard frame that asks for a window of 2 GiB, with one raw block of one byte."""
    return b"\x28\xb5\x2f\xfd" + b"\x00" + bytes(((31 - 10) << 3,)) + b"\x09\x00\x00" + b"x"


def _zstd(data: bytes) -> bytes:
    import zstandard

    packed: bytes = zstandard.ZstdCompressor(level=3).compress(data)
    return packed


def _brotli(data: bytes) -> bytes:
    import brotli

    packed: bytes = brotli.compress(data, quality=1)
    return packed


_COMPRESSORS: Final[tuple[tuple[str, str, Callable[[bytes], bytes]], ...]] = (
    ("application/x-gzip", "zlib", zlib.compress),
    ("application/x-bz2", "bz2", bz2.compress),
    ("application/x-lzma", "lzma", lambda data: lzma.compress(data, preset=0)),
    ("application/zstd", "zstandard", _zstd),
    ("application/x-brotli", "brotli", _brotli),
)
