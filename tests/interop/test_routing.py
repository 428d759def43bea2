"""Topic and fanout exchanges that both systems have queues at, whoever sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Fleet, addresses, parties
from tests.interop.parties import wait_for

kombu: Any = pytest.importorskip("kombu")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["redis+redis", "amqp+rpc"])
def routed(
    request: pytest.FixtureRequest, celery_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A worker of each system on its own queues at the common exchanges, and clients that know their own alone."""
    folder = tmp_path_factory.mktemp("routed")
    node = partial(request.getfixturevalue, "kernel_rabbitmq")
    with addresses(request.param, node) as urls, parties(celery_python, folder, *urls) as fleet:
        sides = (fleet.theirs, fleet.ours)
        fleet.start(
            *(
                party.worker(f"{party.queue}-eu", f"{party.queue}-all", "news", slots=1, INTEROP_ROUTED="1")
                for party in sides
            )
        )
        for party in sides:
            party.configure("routed", routed=True)
        yield fleet


@pytest.fixture(params=["celery", "kernel"])
def sender(request: pytest.FixtureRequest, routed: Fleet) -> Any:
    return routed.theirs if request.param == "celery" else routed.ours


def test_both_get_what_is_sent_to_an_exchange(routed: Fleet, sender: Any) -> None:
    own = sender.name
    wanted = Counter(
        {
            ("celery", f"{own}-eu"): 2,
            ("kernel", f"{own}-eu"): 2,
            ("celery", f"{own}-us"): 1,
            ("kernel", f"{own}-us"): 1,
            ("celery", f"{own}-news"): 1,
            ("kernel", f"{own}-news"): 1,
        }
    )

    def found() -> Counter[tuple[str, ...]]:
        return Counter(tuple(note) for note in routed.notes("mark") if note[1].startswith(own))

    send = partial(sender.send, "shop.mark", app="routed", ignore_result=True)
    send(f"{own}-eu", queue=f"{own}-eu", routing_key="mail.eu.de")
    send(f"{own}-us", queue=f"{own}-eu", routing_key="mail.us")
    # Celery's client on Redis publishes to all who listen once it has declared what the exchange is.
    send(f"{own}-news", queue="news", declare=[kombu.Exchange("news", type="fanout")])
    wait_for(lambda: not wanted - found(), lambda: f"missing: {wanted - found()}\n{routed.logs()}")
    assert found() == wanted
