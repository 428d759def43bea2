"""The kits must find what is wrong: each case here is a driver with one fault, and the test that has to see it."""

from __future__ import annotations

import json
import pickle
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_compressor_zlib import ZlibCompressor
from kernel_pool_asyncio import AsyncioPool
from kernel_pool_solo import SoloPool
from kernel_pool_threads import ThreadsPool
from kernel_serializer_json import JsonSerializer

from kernel import errors
from kernel.interfaces.pool import Drained, Inbox, PoolCapabilities
from kernel.testing.conformance.compressor import CompressorConformance
from kernel.testing.conformance.pool import PoolConformance
from kernel.testing.conformance.serializer import SerializerConformance
from kernel.testing.inbox import FakeInbox

FAULTS = (Exception, pytest.fail.Exception)


# serializers ------------------------------------------------------------------------------------------------


class RunsCode(JsonSerializer):
    """Says it is safe, and unpickles."""

    def loads(self, data: bytes) -> Any:
        try:
            return pickle.loads(data)
        except Exception as exc:
            raise errors.DecodeError(str(exc)) from exc


class RaisesAnything(JsonSerializer):
    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class NamesNothing(JsonSerializer):
    def dumps(self, value: Any) -> bytes:
        try:
            return json.dumps(value).encode()
        except TypeError as exc:
            raise errors.EncodeError("no") from exc


def test_the_kit_sees_a_serializer_that_runs_code(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ran code"):
        SerializerConformance().test_runs_nobodys_code(RunsCode(), tmp_path)


@pytest.mark.parametrize(
    ("codec", "case"),
    [
        (RaisesAnything(), "test_refuses_garbage"),
        (RaisesAnything(), "test_refuses_nothing_at_all"),
        (NamesNothing(), "test_names_what_it_cannot_encode"),
        (NamesNothing(), "test_carries_rich_values"),
    ],
)
def test_the_kit_sees_faulty_serializers(codec: JsonSerializer, case: str) -> None:
    with pytest.raises(FAULTS):
        getattr(SerializerConformance(), case)(codec)


# compressors ------------------------------------------------------------------------------------------------


class Unlimited(ZlibCompressor):
    """Looks at the limit when all of it is inflated."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        output = zlib.decompress(data)
        if len(output) > limit:
            raise errors.PayloadTooLarge("late")
        return output


class TakesCutOff(ZlibCompressor):
    def decompress(self, data: bytes, limit: int) -> bytes:
        return zlib.decompressobj().decompress(data, limit)


@pytest.mark.parametrize(
    ("codec", "case"),
    [
        (TakesCutOff(), "test_stops_at_the_limit"),
        (TakesCutOff(), "test_refuses_what_is_cut_short"),
        (TakesCutOff(), "test_refuses_what_goes_on"),
        (TakesCutOff(), "test_refuses_garbage"),
    ],
)
def test_the_kit_sees_faulty_compressors(codec: ZlibCompressor, case: str) -> None:
    with pytest.raises(FAULTS):
        getattr(CompressorConformance(), case)(codec)


def test_the_kit_sees_a_bomb_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "late_compressor.py"
    module.write_text(
        "import zlib\nfrom kernel import errors\n"
        "class Late:\n"
        "    def compress(self, data): return zlib.compress(data)\n"
        "    def decompress(self, data, limit):\n"
        "        if len(zlib.decompress(data)) > limit: raise errors.PayloadTooLarge('late')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    late: Any = __import__("late_compressor")
    with pytest.raises(AssertionError, match="whole bomb was inflated"):
        CompressorConformance().test_stops_at_the_limit_before_it_has_inflated_more(late.Late(), tmp_path)


# pools ------------------------------------------------------------------------------------------------------


class NeverIdle(SoloPool):
    def serve(self, inbox: Inbox) -> None:
        try:
            while True:
                for job in inbox.take(10, 5.0):
                    job.run()
        except Drained:
            pass


class AlwaysIdle(SoloPool):
    def serve(self, inbox: Inbox) -> None:
        try:
            while True:
                for job in inbox.take(10, 5.0):
                    try:
                        job.run()
                    except ValueError:
                        return
                    inbox.idle()
        except Drained:
            pass


class Abandons(ThreadsPool):
    """Returns as soon as the inbox is drained, whatever still runs."""

    def serve(self, inbox: Inbox) -> None:
        try:
            while True:
                for job in inbox.take(1, 5.0):
                    threading.Thread(target=job.run, daemon=True).start()
        except Drained:
            inbox.idle()


class Serial(AsyncioPool):
    """Says it runs coroutines together."""

    capabilities = PoolCapabilities(runs_coroutines=True)

    def serve(self, inbox: Inbox) -> None:
        SoloPool.serve(SoloPool.__new__(SoloPool), inbox)


@pytest.fixture
def inbox() -> Iterator[FakeInbox]:
    inbox = FakeInbox()
    yield inbox
    inbox.dispose()


@pytest.mark.parametrize(
    ("pool", "case"),
    [
        (NeverIdle, "test_idle_comes_before_waiting"),
        (NeverIdle, "test_runs_thousands_of_jobs_once_each"),
        (NeverIdle, "test_survives_a_job_that_raises"),
        (AlwaysIdle, "test_idle_does_not_come_between_jobs"),
        (AlwaysIdle, "test_survives_a_job_that_raises"),
        (Abandons, "test_drain_finishes_what_runs"),
    ],
)
def test_the_kit_sees_faulty_pools(pool: type, case: str, inbox: FakeInbox) -> None:
    kit = type("Kit", (PoolConformance,), {"pool": pool, "slots": 1})()
    with pytest.raises(FAULTS):
        getattr(kit, case)(inbox)


def test_the_kit_sees_a_pool_that_is_not_as_wide_as_it_says(inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.testing.conformance.pool._MEETING", 0.5)
    kit = type("Kit", (PoolConformance,), {"pool": SoloPool})()
    with pytest.raises(AssertionError, match="never ran at the same time"):
        kit.test_reaches_its_slots_and_never_passes_them(inbox)


def test_the_kit_sees_coroutines_that_do_not_run_together(inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.testing.conformance.pool._MEETING", 0.05)
    kit = type("Kit", (PoolConformance,), {"pool": Serial})()
    with pytest.raises(AssertionError):
        kit.test_coroutines(inbox)
