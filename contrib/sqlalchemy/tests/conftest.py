"""Databases with a table of the program's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text

from kernel import Kernel


def add_task(app: Kernel) -> Kernel:
    @app.task(name="t.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return app


def make_engine(url: str) -> Engine:
    """An engine on a database that has the table `orders`."""
    engine = create_engine(url)
    if url.startswith("sqlite"):
        # Python's driver begins transactions when it thinks fit, and not with a savepoint: as SQLAlchemy's manual says.
        event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY)"))
    return engine


@pytest.fixture(name="add_task", scope="session")
def fixture_add_task() -> Callable[[Kernel], Kernel]:
    return add_task


@pytest.fixture(name="make_engine", scope="session")
def fixture_make_engine() -> Callable[[str], Engine]:
    return make_engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path}/shop.db")
    yield engine
    engine.dispose()


@pytest.fixture(params=["memory", "elsewhere", "same"])
def app(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Iterator[Kernel]:
    """On a broker that is no database, on another database, and on the one of the engine."""
    urls = {
        "memory": "memory://",
        "elsewhere": f"sqlite:///{tmp_path}/jobs.db",
        "same": f"sqlite:///{tmp_path}/shop.db",
    }
    with add_task(Kernel("shop", broker=urls[request.param])) as app:
        app.broker.declare([])  # the tables are there before a transaction of the test's is open
        yield app
