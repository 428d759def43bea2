from __future__ import annotations

import enum
import subprocess
import sys
from typing import Any

import pytest
import yaml
from kernel_serializer_yaml import YamlSerializer

from kernel import errors


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000, "nested more than 200 levels"),
        (b"- " * 100_000, "nested more than 200 levels"),
        (b"? " * 100_000, "nested more than 200 levels"),
        (b"&a [*a]", "names nothing that ends before it"),
        (b"[*nobody]", "names nothing"),
        (b"{a: &a {k: v}, b: {<<: *a}}", "merge keys are not accepted"),
        (b"a\n---\nb", "2 documents"),
        (b"9" * 100_000, "over 4300 digits"),
        (b"1" + b":59" * 100_000, "over 4300 digits"),
        (b"!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"!unknown x", "could not determine a constructor"),
        (b"!decimal x", "not valid YAML"),
        (b"!decimal [1]", "not valid YAML"),
        (b"!uuid 5", "not valid YAML"),
        (b"!timedelta 1 2", "not valid YAML"),
        (b"!!timestamp 2026-99-99", "not valid YAML"),
        (b"!!int x", "not valid YAML"),
        (b"? [1]\n: 2", "unhashable key"),
        (b"\xff\xff", "not valid YAML"),
    ],
)
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(errors.DecodeError, match=reason):
        YamlSerializer().loads(data)


def test_a_billion_laughs() -> None:
    lines = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    for level in range(1, 10):
        lines.append(b"a%d: &a%d [%s]" % (level, level, b",".join([b"*a%d" % (level - 1)] * 9)))
    with pytest.raises(errors.DecodeError, match="aliases stand for far more than it holds"):
        YamlSerializer().loads(b"\n".join(lines))


def test_a_long_text_met_too_often() -> None:
    data = b"[&a " + b"x" * 10_000 + b", *a" * 200 + b"]"
    with pytest.raises(errors.DecodeError, match="aliases stand for far more than it holds"):
        YamlSerializer().loads(data)


def test_a_deep_document_does_not_end_the_process() -> None:
    """The loader of libyaml overflows the stack of its process: this must be seen from outside."""
    program = (
        "from kernel_serializer_yaml import YamlSerializer\n"
        "from kernel.errors import DecodeError\n"
        "for data in (b'[' * 500_000, b'- ' * 500_000, b'[' * 500_000 + b']' * 500_000):\n"
        "    try: YamlSerializer().loads(data)\n"
        "    except DecodeError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 3)


def test_what_it_writes_it_reads() -> None:
    value: Any = "core"
    for _ in range(200):
        value = [value]
    assert YamlSerializer().loads(YamlSerializer().dumps(value)) == value
    with pytest.raises(errors.EncodeError, match="nested too deeply"):
        YamlSerializer().dumps([value])


def test_aliases_of_peers_are_read_and_none_are_written() -> None:
    shared = [1, 2]
    written_by_a_peer = yaml.safe_dump([shared, shared]).encode()
    assert b"&id001" in written_by_a_peer
    assert YamlSerializer().loads(written_by_a_peer) == [[1, 2], [1, 2]]
    many = yaml.safe_dump([shared * 100] + [shared] * 5).encode()
    assert len(YamlSerializer().loads(many)) == 6
    assert b"&" not in YamlSerializer().dumps([shared, shared])


def test_subclasses_and_json_methods() -> None:
    class Signature(dict[str, Any]):
        pass

    class Name(str):
        __slots__ = ()

    class Color(str, enum.Enum):  # noqa: UP042 - the kind whose str() is not its value
        RED = "red"

    class Order:
        def __json__(self) -> dict[str, Any]:
            return {"id": 1}

    data = YamlSerializer().dumps([Signature(task="t"), Name("n"), Color.RED, Order(), (1, 2), {3}])
    assert YamlSerializer().loads(data) == [{"task": "t"}, "n", "red", {"id": 1}, [1, 2], {3}]
    assert yaml.safe_load(data) == [{"task": "t"}, "n", "red", {"id": 1}, [1, 2], {3}]


def test_names_the_place() -> None:
    with pytest.raises(errors.EncodeError, match=r"args\[0\]\['order'\] is of type complex"):
        YamlSerializer().dumps([[{"order": 1j}], {}, None])


def test_a_lone_surrogate_is_refused_by_the_sender() -> None:
    with pytest.raises(errors.EncodeError, match=r"kwargs\['name'\] is of type str .*surrogates not allowed"):
        YamlSerializer().dumps([[], {"name": "\ud800"}, None])
