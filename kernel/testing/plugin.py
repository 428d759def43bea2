"""The pytest plugin: the fixtures ``kernel_app``, ``kernel_worker`` and ``kernel_rabbitmq``, and the marker ``kernel``.

pytest loads this at start in every environment that has the kernel installed, whether its tests know of the kernel or
not. So it imports pytest and nothing else; what a fixture needs is imported when a test asks for the fixture.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.testing.rabbitmq import RabbitProcess
    from kernel.worker.worker import Worker

_KITS: Final = "kernel.testing.conformance"
_STOPPING: Final = 10.0
"""Seconds that a worker has at the end of its test to finish what it runs."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel(**settings): settings of the app that `kernel_app` makes for this test")
    if _KITS not in sys.modules:
        # So that a case of a kit that fails shows what it compared.
        pytest.register_assert_rewrite(_KITS)


@pytest.fixture
def kernel_app(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """An app of this test's own, on the memory broker and backend, without the plugins that happen to be installed.

    ``@pytest.mark.kernel(task_acks_late=False)`` gives it settings; the marker nearest to the test wins. Override
    the fixture to give `kernel_worker` another app.
    """
    from kernel.app import Kernel
    from kernel.extensions import Extensions

    settings = marked_settings(request.node)
    app = Kernel("tests", **{"broker": "memory://", "backend": "memory://", **settings})
    app.extensions = Extensions(app.conf, autoload=False)
    yield app
    app.close()


@pytest.fixture
def kernel_worker(kernel_app: Kernel) -> Iterator[Worker]:
    """A worker for `kernel_app` on threads of this process, ready when the test begins and gone when it ends.

    Fails the test when it cannot start, or leaves work behind that does not end within ten seconds.
    """
    from kernel.worker.worker import Worker

    worker = Worker(kernel_app, pool="threads", concurrency=kernel_app.conf.worker_concurrency or 4)
    worker.start()
    yield worker
    if not worker.drain(timeout=_STOPPING) and not worker.stop(timeout=_STOPPING):
        pytest.fail(f"the worker {worker.hostname} did not end")


@pytest.fixture(scope="session")
def kernel_rabbitmq() -> Iterator[RabbitProcess]:
    """A private RabbitMQ that all tests of a run share, since it takes seconds to start: take `kernel_rabbitmq_url`
    for a place of one's own on it, and `kernel.testing.rabbitmq.rabbitmq_server` for one to kill."""
    from kernel.testing.rabbitmq import rabbitmq_server

    with rabbitmq_server() as server:
        yield server


@pytest.fixture
def kernel_rabbitmq_url(kernel_rabbitmq: RabbitProcess) -> Iterator[str]:
    """The URL of an empty virtual host of this test's own, which is deleted with all that is in it."""
    url = kernel_rabbitmq.add_vhost()
    yield url
    kernel_rabbitmq.delete_vhost(url)


def marked_settings(node: pytest.Item) -> dict[str, Any]:
    """The settings of all markers ``kernel`` on a test, its class and its module."""
    settings: dict[str, Any] = {}
    for marker in node.iter_markers("kernel"):
        if marker.args:
            raise pytest.UsageError(
                f"@pytest.mark.kernel takes settings by name, as in kernel(timezone='UTC'): {marker}"
            )
        # The nearest marker comes first.
        settings = {**marker.kwargs, **settings}
    return settings
