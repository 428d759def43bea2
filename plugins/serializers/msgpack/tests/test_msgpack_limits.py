from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from kernel_serializer_msgpack import MsgpackSerializer

from kernel import errors


@pytest.mark.parametrize(
    ("value", "code", "payload"),
    [
        (datetime(2026, 1, 2, tzinfo=UTC), 1, b"2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), 2, b"2026-01-02"),
        (time(1, 2), 3, b"01:02:00"),
        (timedelta(-1, 2, 3), 4, b"-1 2 3"),
        (Decimal("1.50"), 5, b"1.50"),
        (UUID(int=1), 6, bytes(15) + b"\x01"),
        (2**64, 7, b"\x01" + bytes(8)),
        (-(2**63) - 1, 7, b"\xff\x7f" + b"\xff" * 7),
    ],
)
def test_extension_types_are_those_of_the_readme(value: Any, code: int, payload: bytes) -> None:
    data = MsgpackSerializer().dumps(value)
    assert msgpack.unpackb(data) == msgpack.ExtType(code, payload)
    assert MsgpackSerializer().loads(data) == value


def test_timestamps_of_peers_are_read() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert MsgpackSerializer().loads(msgpack.packb(moment, datetime=True)) == moment


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x91" * 100_000 + b"\xc0", "not valid MessagePack"),
        (b"\xc1", "not valid MessagePack"),
        (b"\x01\x02", "1 bytes follow the end"),
        (b"\x92\x01", "No more data"),
        (b"\xd4\x63a", "unknown MessagePack extension type 99"),
        (b"\xd4\x01a", "Invalid isoformat"),
        (b"\xd4\x05x", "not valid MessagePack"),
        (b"\xd4\x06x", "not valid MessagePack"),
        (b"\xc7\x08\xff" + b"\xff" * 8, "nanoseconds"),
        (b"\x81\x80\x01", "unhashable"),
        (b"\xa1\xff", "not valid MessagePack"),
    ],
)
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(errors.DecodeError, match=reason):
        MsgpackSerializer().loads(data)


def test_arrays_that_are_only_announced_cost_no_memory() -> None:
    """A thousand headers inside one another, each announcing 65,535 elements: room for half a gigabyte."""
    program = (
        "import resource\n"
        "from kernel_serializer_msgpack import MsgpackSerializer\n"
        "from kernel.errors import DecodeError\n"
        "data = b'\\xdc\\xff\\xff' * 1000 + b'\\xc0' * 70_000\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: MsgpackSerializer().loads(data)\n"
        "except DecodeError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 32 * 1024


def test_keys_keep_their_type() -> None:
    value = {1: "a", "1": "b", b"1": "c", None: "d", 2.5: "e"}
    assert MsgpackSerializer().loads(MsgpackSerializer().dumps(value)) == value


def test_json_methods() -> None:
    class Order:
        def __json__(self) -> dict[str, Any]:
            return {"created": 1j}

    with pytest.raises(errors.EncodeError, match=r"args\[0\]\.created is of type complex"):
        MsgpackSerializer().dumps([[Order()], {}, None])
