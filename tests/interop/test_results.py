"""Results that one system stores and the other reads, in every format that the settings can ask for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from tests.interop.conftest import Fleet, Way, addresses, parties

PLAIN = {"text": "žluť \U0001f600", "list": [1, 2.5, None, True, {"deep": [[]]}], "status": "FAILURE"}
RICH = {"moment": datetime(2026, 11, 21, 1, 57, 37, 23282, tzinfo=UTC), "day": date(2026, 2, 28)}
VALUES: dict[str, Any] = {
    "json": PLAIN | RICH,
    "pickle": PLAIN | RICH | {"set": {1, 2}, "tuple": (1, (2,))},
    "yaml": PLAIN | RICH,
    "msgpack": PLAIN,
}
COMPRESSIONS = (None, "zlib", "bzip2", "zstd", "lzma", "brotli")
PAIRS = [(serializer, None) for serializer in VALUES] + [("json", each) for each in COMPRESSIONS[1:]]
PAIRS += [("pickle", "zlib"), ("yaml", "bzip2"), ("msgpack", "zstd")]


@pytest.fixture(scope="module")
def fleet(celery_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Without workers: both store through their clients what their workers would."""
    folder = tmp_path_factory.mktemp("results")
    with addresses("redis+redis") as urls, parties(celery_python, folder, *urls) as fleet:
        yield fleet


def configured(way: Way, serializer: str, compression: str | None) -> str:
    """The name of an app on both sides that keeps its results so."""
    name = f"{serializer}-{compression}"
    for side in (way.sender, way.runner):
        side.configure(name, result_serializer=serializer, result_compression=compression)
    return name


@pytest.mark.parametrize(("serializer", "compression"), PAIRS)
class TestEveryFormat:
    def test_a_value(self, way: Way, serializer: str, compression: str | None) -> None:
        app, task, value = configured(way, serializer, compression), uuid.uuid4().hex, VALUES[serializer]
        way.runner.store(task, value, "SUCCESS", app=app)
        assert way.sender.get(task, 5, app=app) == value
        assert way.sender.look(task, app=app)["state"] == "SUCCESS"

    def test_an_exception(self, way: Way, serializer: str, compression: str | None) -> None:
        app, task = configured(way, serializer, compression), uuid.uuid4().hex
        way.runner.store(task, None, "FAILURE", app=app, error="shop")
        assert way.sender.error(task, 5, app=app)[:3] == ("bodies", "ShopError", ["sold out", 404])
        assert way.sender.look(task, app=app)["traceback"] == "a text"

    def test_a_state_in_between_gives_way_to_the_end_and_that_to_nothing(
        self, way: Way, serializer: str, compression: str | None
    ) -> None:
        app, task = configured(way, serializer, compression), uuid.uuid4().hex
        for side in (way.sender, way.runner):
            side.store(task, {"done": side.name}, "PROGRESS", app=app)
            for reader in (way.sender, way.runner):
                look = reader.look(task, app=app)
                assert (look["state"], look["result"]) == ("PROGRESS", {"done": side.name})
        way.runner.store(task, "first", "SUCCESS", app=app)
        way.sender.store(task, "second", "SUCCESS", app=app)
        for reader in (way.sender, way.runner):
            assert reader.get(task, 5, app=app) == "first"


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_we_read_every_format_whatever_is_ours(fleet: Fleet, serializer: str, compression: str | None) -> None:
    app, task = f"{serializer}-{compression}", uuid.uuid4().hex
    fleet.theirs.configure(app, result_serializer=serializer, result_compression=compression)
    fleet.theirs.store(task, PLAIN, "SUCCESS", app=app)
    assert fleet.ours.get(task, 5) == PLAIN


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
def test_what_is_not_accepted_is_not_decoded_and_says_so(fleet: Fleet, serializer: str) -> None:
    app, task, running = f"refused-{serializer}", uuid.uuid4().hex, uuid.uuid4().hex
    fleet.theirs.configure(app, result_serializer=serializer)
    fleet.ours.configure("json only", accept_content=["json"])
    fleet.theirs.store(task, PLAIN, "SUCCESS", app=app)
    fleet.theirs.store(running, PLAIN, "STARTED", app=app)
    assert fleet.ours.result(task, "json only").state == "SUCCESS"
    with pytest.raises(errors.ContentDisallowed, match="accept_content"):
        fleet.ours.get(task, 5, app="json only")
    # What has not ended is not taken for an end.
    assert fleet.ours.result(running, "json only").state == "STARTED"
    assert fleet.ours.result(running).result == PLAIN


def test_both_put_the_same_prefix_in_front_of_their_keys(way: Way) -> None:
    task = uuid.uuid4().hex
    for side in (way.sender, way.runner):
        side.configure("prefixed", result_backend_transport_options={"global_keyprefix": "acme:"})
    way.runner.store(task, PLAIN, "SUCCESS", app="prefixed")
    assert way.sender.get(task, 5, app="prefixed") == PLAIN
    assert way.sender.look(task)["state"] == "PENDING"


@pytest.mark.parametrize(
    ("combination", "serializer", "compression"), [("redis+redis", "pickle", "zlib"), ("amqp+rpc", "pickle", None)]
)
def test_workers_that_keep_results_otherwise(
    request: pytest.FixtureRequest, celery_python: Path, tmp_path: Path, combination: str, serializer: str,
    compression: str | None,
) -> None:  # fmt: skip
    """Through workers, and to callers who keep theirs alike."""
    settings = {"result_serializer": serializer, "result_compression": compression}
    variables = {"INTEROP_RESULTS": serializer, **({"INTEROP_PRESS": compression} if compression else {})}
    node = partial(request.getfixturevalue, "kernel_rabbitmq")
    with addresses(combination, node) as urls, parties(celery_python, tmp_path, *urls) as pair:
        sides = (pair.theirs, pair.ours)
        pair.start(*(side.worker(side.queue, **variables) for side in sides))
        for sender, runner in (sides, sides[::-1]):
            sender.configure("alike", **settings)
            options = {"app": "alike", "queue": runner.queue, "serializer": "pickle"}
            task = sender.send("shop.echo", {1, 2}, kwargs=PLAIN, **options)
            assert sender.get(task, app="alike") == {"side": runner.name, "args": [{1, 2}], "kwargs": PLAIN}
            task = sender.send("shop.fail", "shop", **options)
            assert sender.error(task, app="alike")[:3] == ("bodies", "ShopError", ["sold out", 404])
            task = sender.send("shop.hop", 1, [runner.queue], [], **options)
            assert sender.get(task, app="alike") == [f"{runner.name}:0", f"{runner.name}:1"]
