"""The kit for compressors. A third party's test module is four lines:

from kernel.testing.conformance.compressor import CompressorConformance
from my_compressor import MyCompressor

class TestMyCompressor(CompressorConformance):
    compressor = MyCompressor
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from kernel import errors
from kernel.interfaces import serializer as interface
from kernel.testing.payloads import bombs

_MIB: Final = 2**20

# Run in a process of its own, whose peak of memory is then that of one call.
_MEASURE: Final = """
import importlib, pathlib, resource, sys
from kernel import errors

def peak():
    # Linux hands on a parent's peak through fork and exec in ru_maxrss, and the parent may be large.
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))

module, name, path, limit = sys.argv[1:]
made = getattr(importlib.import_module(module), name)()
data = pathlib.Path(path).read_bytes()
before = peak()
try:
    made.decompress(data, int(limit))
    print("inflated")
except errors.PayloadTooLarge:
    print("refused", peak() - before)
"""


class CompressorConformance:
    """Set `compressor` to the driver class. `overhead` is what it may hold beyond three times the limit
    (a window and its tables), in bytes; `checksum` is False for a format that does not notice flipped bits."""

    compressor: ClassVar[Callable[[], Any]]
    overhead: ClassVar[int] = 24 * _MIB
    checksum: ClassVar[bool] = True

    @pytest.fixture
    def codec(self) -> interface.Compressor:
        made: interface.Compressor = type(self).compressor()
        return made

    def test_declares_what_it_is(self, codec: interface.Compressor) -> None:
        assert isinstance(codec, interface.Compressor)
        assert codec.interface[0] == interface.INTERFACE[0] and codec.interface[1] <= interface.INTERFACE[1]
        assert codec.name and "/" not in codec.name
        assert codec.content_type.count("/") == 1 and codec.content_type.isascii()

    @pytest.mark.parametrize("data", (b"", b"a", b"text " * 1000, bytes(_MIB)), ids=len)
    def test_there_and_back(self, codec: interface.Compressor, data: bytes) -> None:
        packed = codec.compress(data)
        assert type(packed) is bytes
        assert codec.decompress(packed, len(data)) == data, "the limit itself is allowed"
        assert codec.decompress(packed, len(data) + 1000) == data

    def test_carries_what_does_not_shrink(self, codec: interface.Compressor) -> None:
        noise = random.Random(1).randbytes(300_000)
        assert codec.decompress(codec.compress(noise), _MIB) == noise
        repeated = noise[:500] * 2000
        packed = codec.compress(repeated)
        assert len(packed) < len(repeated) // 10
        assert codec.decompress(packed, len(repeated)) == repeated

    def test_stops_at_the_limit(self, codec: interface.Compressor) -> None:
        for size in (1, 1000, _MIB):
            packed = codec.compress(bytes(size))
            for limit in {0, size // 2, size - 1}:
                with pytest.raises(errors.PayloadTooLarge):
                    codec.decompress(packed, limit)

    def test_stops_at_the_limit_before_it_has_inflated_more(self, codec: interface.Compressor, tmp_path: Path) -> None:
        bomb = tmp_path / "bomb"
        bomb.write_bytes(codec.compress(bytes(200 * _MIB)))
        limit = 8 * _MIB
        kind = type(codec)
        command = [sys.executable, "-c", _MEASURE, kind.__module__, kind.__qualname__, str(bomb), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        verdict, _, peak = done.stdout.strip().partition(" ")
        assert verdict == "refused"
        assert int(peak) * 1024 <= 3 * limit + self.overhead, "the whole bomb was inflated before it was refused"

    def test_refuses_bombs_of_its_content_type(self, codec: interface.Compressor) -> None:
        for _, data in bombs(only=codec.content_type):
            with contextlib.suppress(errors.DecodeError):
                assert len(codec.decompress(data, _MIB)) <= _MIB

    def test_refuses_what_is_cut_short(self, codec: interface.Compressor) -> None:
        packed = codec.compress(random.Random(2).randbytes(200) * 5)
        for end in range(len(packed)):
            with pytest.raises(errors.DecodeError):
                codec.decompress(packed[:end], _MIB)

    def test_refuses_what_goes_on(self, codec: interface.Compressor) -> None:
        packed = codec.compress(b"text " * 100)
        for more in (b"x", b"\0", packed, b"x" * 1000):
            with pytest.raises(errors.DecodeError):
                codec.decompress(packed + more, _MIB)

    def test_refuses_garbage(self, codec: interface.Compressor) -> None:
        choice = random.Random(3)
        for _ in range(500):
            try:
                found = codec.decompress(choice.randbytes(choice.randint(1, 80)), _MIB)
            except errors.DecodeError:
                continue
            assert isinstance(found, bytes) and len(found) <= _MIB

    def test_notices_damage(self, codec: interface.Compressor) -> None:
        choice = random.Random(4)
        data = choice.randbytes(300) * 10
        packed = codec.compress(data)
        for _ in range(500):
            damaged = bytearray(packed)
            damaged[choice.randrange(len(damaged))] ^= 1 << choice.randrange(8)
            try:
                output = codec.decompress(bytes(damaged), _MIB)
            except errors.DecodeError:
                continue
            assert not self.checksum or output == data, "damage went unnoticed"

    def test_serves_several_threads(self, codec: interface.Compressor) -> None:
        def work(number: int) -> bool:
            data = b"%d" % number * 500
            return all(codec.decompress(codec.compress(data), _MIB) == data for _ in range(20))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(16)))
