"""Canvases beside Celery: what its own worker makes of the table of `tests/canvas`, and canvases whose parts run on
both sides."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from kernel import Signature, chain, group
from tests.canvas.case import Case, Seen, check
from tests.canvas.table import CASES
from tests.interop.conftest import Fleet
from tests.interop.parties import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def celery_saw(celery_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of the rows on Celery, by their names."""
    command = [str(celery_python), "-m", "tests.canvas.on_celery", str(tmp_path_factory.mktemp("table"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHOP_PATIENCE": "8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-4000:]
    saw: dict[str, Any] = json.loads(done.stdout)
    return saw


@pytest.mark.parametrize("case", [case for case in CASES if not case.celery_cannot], ids=lambda case: case.name)
def test_what_the_table_says_is_what_celery_does(celery_saw: dict[str, Any], case: Case) -> None:
    saw = Seen(**celery_saw[case.name])
    saw.error = None if saw.error is None else (saw.error[0], saw.error[1])
    saw.children = {label: set(children) for label, children in saw.children.items()}
    check(dataclasses.replace(case, **case.celery), saw)


# --- canvases whose parts run on both sides -----------------------------------------------------------------


@dataclasses.dataclass
class Maker:
    """Who sends a canvas; `here` is the queue of its own workers, `there` the other one."""

    fleet: Fleet
    name: str

    @property
    def here(self) -> str:
        return self.fleet.theirs.queue if self.name == "celery" else self.fleet.ours.queue

    @property
    def there(self) -> str:
        return self.fleet.ours.queue if self.name == "celery" else self.fleet.theirs.queue

    def s(self, name: str, *args: Any, queue: str) -> Signature[Any]:
        return self.fleet.ours.app.tasks[f"shop.{name}"].s(*args).set(queue=queue)

    def send(self, made: Signature[Any]) -> list[Any]:
        """The ids of the result and its parents. What is sent was JSON before, whoever sends it."""
        data = json.loads(json.dumps(made))
        if self.name == "celery":
            found: list[Any] = self.fleet.theirs.ask("apply", data)
            return found
        result, path = self.fleet.ours.app.signature(data).apply_async(), []
        while result is not None:
            path.append([member.id for member in result] if hasattr(result, "results") else result.id)
            result = result.parent
        return path

    def facts(self, id: str, *names: str) -> tuple[Any, ...]:
        found = self.fleet.ours.get(id)
        return tuple(found[name] for name in names)


@pytest.fixture(params=["celery", "kernel"])
def maker(request: pytest.FixtureRequest, pair: Fleet) -> Maker:
    return Maker(pair, request.param)


def test_a_chain_goes_there_and_back(maker: Maker) -> None:
    made = maker.s("add", 1, 2, queue=maker.there) | maker.s("add", 10, queue=maker.here)
    last, second, first = maker.send(made | maker.s("about", queue=maker.there))
    assert maker.facts(last, "side", "args", "parent_id", "root_id") == (maker.there, [13], second, first)


def test_a_chain_that_ends_in_a_group_of_both(maker: Maker) -> None:
    members = group(maker.s("about", 1, queue=maker.here), maker.s("about", 2, queue=maker.there))
    (here, there), first = maker.send(maker.s("add", 1, 2, queue=maker.there) | members)
    names = ("side", "args", "parent_id", "root_id", "group_index")
    assert maker.facts(here, *names) == (maker.here, [3, 1], first, first, 0)
    assert maker.facts(there, *names) == (maker.there, [3, 2], first, first, 1)
    assert maker.facts(here, "group") == maker.facts(there, "group")


@pytest.mark.parametrize("end", ["task", "chain"])
def test_what_comes_after_a_failure_fails_on_both_sides(maker: Maker, end: str) -> None:
    made = maker.s("add", 1, 2, queue=maker.here) | maker.s("fail", queue=maker.there)
    made.tasks[-1].update(args=("shop",), immutable=True)
    made |= maker.s("add", 1, queue=maker.here)
    if end == "chain":
        made |= maker.s("add", 1, queue=maker.there)
    last, *_ = maker.send(made)
    for side in (maker.fleet.ours, maker.fleet.theirs):
        assert side.error(last)[:3] == ("bodies", "ShopError", ["sold out", 404])


def test_errbacks_of_both_kinds(maker: Maker) -> None:
    made = maker.s("add", 1, 2, queue=maker.here) | maker.s("fail", "key", queue=maker.there)
    made.tasks[-1].set_immutable(True)
    made.tasks[-1].link_error(maker.s("old_errback", queue=maker.here))
    made.tasks[-1].link_error(maker.s("new_errback", queue=maker.here))
    failed, _ = maker.send(made)
    assert maker.fleet.ours.error(failed)[1] == "KeyError"
    assert maker.fleet.wait_for_note("old", maker.here, failed) == [failed]
    assert maker.fleet.wait_for_note("new", maker.there, failed) == ["KeyError"]


def test_callbacks_that_are_canvases(maker: Maker) -> None:
    key, other = uuid.uuid4().hex, uuid.uuid4().hex
    made = maker.s("add", 1, 2, queue=maker.there)
    made.link(chain(maker.s("add", 1, queue=maker.here), maker.s("noted", key, queue=maker.there)))
    made.link(group(maker.s("noted", other, queue=maker.here), maker.s("noted", other, queue=maker.there)))
    (first,) = maker.send(made)
    assert maker.fleet.ours.get(first) == 3
    assert maker.fleet.wait_for_note("noted", maker.there, "4") == [key]
    for side in (maker.here, maker.there):
        wait_for(lambda side=side: [other] in maker.fleet.notes("noted", side, "3"), maker.fleet.logs, PATIENCE)
        assert maker.fleet.notes("noted", side, "3").count([other]) == 1


def test_maps_and_chunks(maker: Maker) -> None:
    add = maker.fleet.ours.app.tasks["shop.add"]
    chunks = add.chunks([(n, n) for n in range(5)], 2).group()
    for member, queue in zip(chunks.tasks, (maker.here, maker.there, maker.here), strict=True):
        member.set(queue=queue)
    (ids,) = maker.send(chunks)
    assert [maker.fleet.ours.get(each) for each in ids] == [[0, 2], [4, 6], [8]]
    last, _ = maker.send(add.starmap([(1, 2), (3, 4)]).set(queue=maker.there) | maker.s("echo", queue=maker.here))
    assert maker.facts(last, "side", "args") == (maker.here, [[3, 7]])
