from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from kernel_compressor_zlib import ZlibCompressor
from kernel_serializer_json import JsonSerializer

from kernel import errors
from kernel.codecs import Codecs
from kernel.message import Message
from kernel.testing.hostile import hostile_cases, hostile_messages, task_message


def find(kind: str, name: str) -> object:
    codec = {"json": JsonSerializer, "zlib": ZlibCompressor}.get(name)
    if codec is None:
        raise errors.DriverNotFound(name)
    return codec()


def bytes_of(message: Message) -> tuple[bytes, bytes, str, str, str]:
    return (
        message.raw_headers,
        message.body,
        message.content_type,
        message.content_encoding,
        repr(message.properties),
    )


def test_a_seed_makes_the_same_messages_again() -> None:
    first, again, other = (map(bytes_of, hostile_messages(seed, 300)) for seed in (3, 3, 4))
    kept = list(first)
    assert kept == list(again)
    assert kept != list(other)


def test_every_kind_comes() -> None:
    texts = [text for text, _ in itertools.islice(hostile_cases(5), 1500)]
    for part in ("header timelimit = [nan, nan]", "no header id", "headers b'null'", "body b'[null, null, null]'"):
        assert part in texts
    for part in ("encoding 'rot13'", "canary as application/x-yaml", "application/x-bz2 ", "property reply_to"):
        assert any(part in text for text in texts), part


def test_a_good_message_is_good() -> None:
    codecs = Codecs(find=find, names=lambda kind: ("zlib",), accept=["json"])
    message = task_message("t", "id-1", (1, 2), {"a": None})
    assert (message.id, message.task) == ("id-1", "t")
    assert codecs.decode_body(message)[:2] == ([1, 2], {"a": None})


def test_codecs_refuse_all_of_it_with_their_own_errors(tmp_path: Path) -> None:
    """Whatever a stranger sends, reading it ends in an error that says so, and runs nothing of theirs."""
    canary = tmp_path / "canary"
    codecs = Codecs(find=find, names=lambda kind: ("zlib",), accept=["json"])
    refused = {
        errors.InvalidTaskError: 0,
        errors.ContentDisallowed: 0,
        errors.DecodeError: 0,
        errors.PayloadTooLarge: 0,
    }
    for text, message in itertools.islice(hostile_cases(6, canary=str(canary)), 1500):
        arrived = Message(
            message.raw_headers,
            message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
        )
        try:
            assert arrived.id
            assert arrived.task
            codecs.decode_body(arrived)
        except tuple(refused) as exc:
            refused[type(exc)] += 1
        except Exception as exc:
            pytest.fail(f"{text}: {exc!r}")
    assert all(refused.values()), refused
    assert not canary.exists()
    assert not os.path.exists("hostile-canary")
