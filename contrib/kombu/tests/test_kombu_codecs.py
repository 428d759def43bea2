from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pluggy
import pytest
from kernel_contrib_kombu import plugin

from kernel import errors, hooks
from kernel.codecs import Codecs
from kernel.interfaces.serializer import Compressor, Serializer
from kernel.message import Message
from kernel.testing.conformance.serializer import SerializerConformance

compression: Any = pytest.importorskip("kombu.compression")
registry: Any = pytest.importorskip("kombu.serialization").registry
kombu_json: Any = pytest.importorskip("kombu.utils.json")


def _encode(value: Any) -> str:
    return str(kombu_json.dumps(value))[::-1]


def _decode(data: bytes) -> Any:
    return kombu_json.loads(data[::-1])


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """A serializer and a compressor of the user's, in kombu's own tables and out of them again."""
    registry.register("backwards", _encode, _decode, "application/x-backwards", "utf-8")
    compression.register(base64.b64encode, base64.b64decode, "application/x-b64", aliases=["b64"])
    yield
    registry.unregister("backwards")
    compression._encoders.pop("application/x-b64")
    compression._decoders.pop("application/x-b64")
    compression._aliases.pop("b64")


def ask(kind: Literal["serializer", "compressor"], name: str) -> Any:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(plugin)
    manager.check_pending()
    return manager.hook.kernel_find_codec(kind=kind, name=name)


class TestKombuSerializer(SerializerConformance):
    serializer = staticmethod(lambda: ask("serializer", "backwards"))
    # kombu's JSON has no timedelta.
    rich = (b"text", b"\xff")


@pytest.mark.parametrize("name", ["backwards", "application/x-backwards"])
def test_finds_serializers_by_name_and_content_type(name: str) -> None:
    found = ask("serializer", name)
    assert isinstance(found, Serializer)
    assert (found.name, found.content_type, found.safe) == ("backwards", "application/x-backwards", False)
    assert found.loads(found.dumps([1, {"a": None}])) == [1, {"a": None}]


@pytest.mark.parametrize("name", ["b64", "application/x-b64"])
def test_finds_compressors_by_name_and_content_type(name: str) -> None:
    found = ask("compressor", name)
    assert isinstance(found, Compressor)
    assert found.content_type == "application/x-b64"
    assert found.decompress(found.compress(b"text"), 100) == b"text"
    with pytest.raises(errors.PayloadTooLarge):
        found.decompress(found.compress(b"text" * 10), 39)
    with pytest.raises(errors.DecodeError):
        found.decompress(b"a", 100)


@pytest.mark.parametrize("name", ["json", "pickle", "application/x-python-serialize", "yaml", "nothing"])
def test_leaves_what_kombu_brings_itself_to_our_drivers(name: str) -> None:
    assert ask("serializer", name) is None


@pytest.mark.parametrize("name", ["gzip", "application/x-gzip", "bzip2", "lzma", "zstd", "brotli", "nothing"])
def test_leaves_the_compressors_of_kombu_to_our_drivers(name: str) -> None:
    assert ask("compressor", name) is None


def test_accept_content_still_decides() -> None:
    def find(kind: Literal["serializer", "compressor"], name: str) -> Any:
        return ask(kind, name)

    body = _encode([[1], {}, None]).encode()
    message = Message({"id": "1", "task": "t"}, body, content_type="application/x-backwards")
    accepting = Codecs(find=find, names=lambda kind: (), accept=["backwards"])
    assert accepting.decode_body(message)[0] == [1]
    refusing = Codecs(find=find, names=lambda kind: (), accept=[])
    with pytest.raises(errors.ContentDisallowed, match="application/x-backwards"):
        refusing.decode_body(message)


def test_kombu_is_imported_when_asked_and_not_before() -> None:
    program = (
        "import sys\n"
        "from kernel_contrib_kombu import plugin\n"
        "assert plugin.kernel_find_codec('serializer', 'json') is None\n"
        "assert 'kombu' not in sys.modules\n"
        "assert plugin.kernel_find_codec('serializer', 'other') is None\n"
        "assert 'kombu' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
