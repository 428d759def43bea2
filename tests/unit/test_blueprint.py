from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from kernel import errors
from kernel.app import Kernel
from kernel.blueprint import Blueprint, blueprints_of, shared_task


@pytest.fixture
def app() -> Iterator[Kernel]:
    app = Kernel("blueprints", broker="memory://", backend="memory://")
    yield app
    app.close()


def shared() -> tuple[Blueprint, Any]:
    blueprint = Blueprint()

    @blueprint.task(name="shared.add", queue="far")
    def add(x: int, y: int) -> int:
        return x + y

    return blueprint, add


def test_before_there_is_an_app(app: Kernel) -> None:
    _, add = shared()
    assert add(1, 2) == 3
    assert dict(add.s(1))["task"] == "shared.add"
    with pytest.raises(errors.ImproperlyConfigured, match=r"app\.take"):
        add.delay(1, 2)


def test_the_only_app_is_meant(app: Kernel) -> None:
    blueprint, add = shared()
    early = add.s(1, 2)
    app.take(blueprint)
    app.take(blueprint)
    assert app.tasks["shared.add"].queue == "far"
    assert add.delay(1, 2).app is app
    assert add.s(1, 2).app is app
    assert (early | app.tasks["shared.add"].s(1)).tasks == [early, add.s(1)]
    assert len(app.broker.peek("far", 5)) == 1


def test_of_several_apps_none_is_guessed(app: Kernel) -> None:
    blueprint, add = shared()
    other = Kernel("other", broker="memory://", backend="memory://")
    app.take(blueprint)
    other.take(blueprint)
    with pytest.raises(errors.ImproperlyConfigured, match="2 apps"):
        add.delay(1, 2)
    assert app.tasks["shared.add"] is not other.tasks["shared.add"]

    @app.task(name="inside")
    def inside() -> Any:
        return add.s(1, 2).app is app and add.apply((1, 2)).get()

    assert inside.apply().get() == 3
    other.close()


def test_what_is_defined_later_is_taken_in_too(app: Kernel) -> None:
    blueprint = Blueprint()
    app.take(blueprint)

    @blueprint.task(bind=True, name="late")
    def late(self: Any, x: int) -> Any:
        return self.name, x

    assert app.tasks["late"].apply((1,)).get() == ("late", 1)
    assert late(2) == ("late", 2)


@pytest.mark.parametrize("included", [True, False])
def test_shared_tasks_are_their_modules(app: Kernel, monkeypatch: pytest.MonkeyPatch, included: bool) -> None:
    module = ModuleType("shop_tasks")
    monkeypatch.setitem(sys.modules, "shop_tasks", module)
    source = "from kernel.blueprint import shared_task\n@shared_task(name='shop.buy')\ndef buy(x):\n    return x\n"
    exec(compile(source, "shop_tasks.py", "exec"), vars(module))
    assert len(blueprints_of(module)) == 1
    if included:
        app.conf.update(include=["shop_tasks"])
    else:
        app.autodiscover_tasks(["shop_tasks"], related_name=None)
    app.import_default_modules()
    assert app.tasks["shop.buy"].apply((1,)).get() == 1


def test_shared_twice_is_refused() -> None:
    _, add = shared()
    with pytest.raises(TypeError, match="once"):
        shared_task(add)
