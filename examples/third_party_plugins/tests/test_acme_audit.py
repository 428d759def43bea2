"""The hook plugin, called through an app's plugin manager as the kernel calls it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from acme_kernel.audit import Audit

from kernel import Kernel, Request
from kernel.errors import ImproperlyConfigured
from kernel.interfaces.broker import Delivery
from kernel.interfaces.outcome import Delay, Outcome
from kernel.message import Message


@pytest.fixture
def app(kernel_app: Kernel) -> Kernel:
    """An app with this plugin and no other that may be installed here."""
    kernel_app.extensions.register(Audit(), "acme-audit")
    return kernel_app


def test_its_options_and_settings_are_known(app: Kernel) -> None:
    @app.task(audit=False)
    def quiet() -> None: ...

    assert quiet.audit is False
    app.conf.update(acme_audit_file="audit.log")
    assert app.conf.acme_audit_file == "audit.log"
    assert app.conf.acme_hold_file is None
    with pytest.raises(ImproperlyConfigured, match="acme_audit_file"):
        app.conf.update(acme_audit_fil="audit.log")


def test_ends_are_noted(app: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    app.conf.update(acme_audit_file=str(file))

    @app.task(name="loud")
    def loud() -> None: ...

    @app.task(name="quiet", audit=False)
    def quiet() -> None: ...

    app.extensions.setup("kernel_child_start", child=SimpleNamespace(app=app))
    for task, state in (("loud", "SUCCESS"), ("quiet", "SUCCESS"), ("loud", "RETRY"), ("loud", "FAILURE")):
        request = Request()
        request.app, request.id, request.task = app, "1", task
        app.extensions.observe(app.extensions.hot.kernel_task_end, request, Outcome(state))
    noted = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["task"], line["state"]) for line in noted] == [("loud", "SUCCESS"), ("loud", "FAILURE")]
    assert app.extensions.error_counts == {}


def test_a_file_holds_tasks_back(app: Kernel, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    app.extensions.setup("kernel_worker_start", worker=SimpleNamespace(settings={"acme_hold_file": str(hold)}))
    message = Message({"id": "a", "task": "t"}, b"[]", content_type="application/json")
    delivery = Delivery(message, "celery", "token")

    def asked() -> object:
        return app.extensions.first("kernel_task_admit", app.extensions.hot.kernel_task_admit, delivery)

    assert asked() is None
    hold.touch()
    assert asked() == Delay(1.0)


def test_the_doctor_is_told(app: Kernel, tmp_path: Path) -> None:
    levels = []
    assert app.broker  # opening it makes the settings of plugins known, as it does for the command
    for file in (None, tmp_path / "audit.log", tmp_path / "gone" / "audit.log"):
        app.close()
        app.conf.update(acme_audit_file=file and str(file))
        ((_, (finding,)),) = app.extensions.collect_from("kernel_doctor", app=app)
        levels.append(finding.level)
    assert levels == ["ok", "ok", "fail"]
