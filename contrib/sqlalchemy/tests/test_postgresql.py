"""Messages inside transactions of PostgreSQL, as other connections and a consumer see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from kernel import Kernel
from kernel.app.opened import Opened
from kernel.interfaces.broker import ConsumeOptions
from kernel.testing.servers import Server, postgres_server

ORDER = text("INSERT INTO orders (number) VALUES (:number)")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def engine(server: Server, make_engine: Callable[[str], Engine]) -> Iterator[Engine]:
    engine = make_engine(_url(server))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM orders"))
    engine.dispose()


@pytest.fixture
def app(server: Server, add_task: Callable[[Kernel], Kernel]) -> Iterator[Kernel]:
    with add_task(Kernel("shop", broker=server.url)) as app:
        yield app
        app.broker.purge("celery")


def _url(server: Server) -> str:
    return server.url.replace("postgresql://", "postgresql+psycopg://", 1)


def count(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM orders"))


def waiting(app: Kernel) -> list[int]:
    return [app.codecs.decode_body(message)[0][0] for message in app.broker.peek("celery", 1000)]


def test_a_message_is_part_of_the_transaction(app: Kernel, engine: Engine) -> None:
    add: Any = app.tasks["t.add"]
    with Session(engine) as session:
        session.execute(ORDER, {"number": 1})
        sent = [add.delay_on_commit(session, number, y=2).id for number in range(3)]
        # At the commit: whoever looks at the connection then sees what others see after it.
        seen: list[int] = []
        event.listen(session, "after_commit", lambda session: seen.append(len(waiting(app))))
        assert waiting(app) == []
        session.commit()
    assert waiting(app) == [0, 1, 2]
    assert [message.id for message in app.broker.peek("celery", 9)] == sent
    # They were there before anything was sent.
    assert seen == [3]


def test_savepoints_and_rollbacks_undo_them(app: Kernel, engine: Engine) -> None:
    add: Any = app.tasks["t.add"]
    with Session(engine) as session:
        add.delay_on_commit(session, 1)
        with session.begin_nested():
            add.delay_on_commit(session, 2)
        savepoint = session.begin_nested()
        session.execute(ORDER, {"number": 1})
        with session.begin_nested():
            add.delay_on_commit(session, 3)
        savepoint.rollback()
        session.commit()
        assert waiting(app) == [1, 2]
        with session.begin_nested():
            add.delay_on_commit(session, 4)
        session.rollback()
    assert waiting(app) == [1, 2]


def test_a_worker_that_waits_is_woken_by_the_commit(app: Kernel, engine: Engine) -> None:
    consumer = app.broker.consume(["celery"], ConsumeOptions(owner="waiting"))
    try:
        assert consumer.fetch(1, 1000, 0) == []
        with Session(engine) as session:
            app.tasks["t.add"].delay_on_commit(session, 7)
            session.commit()
        (delivery,) = consumer.fetch(1, 100_000, 30)
        assert app.codecs.decode_body(delivery.message)[0] == [7]
    finally:
        consumer.close()


def test_queues_and_options_are_those_of_the_call(app: Kernel, engine: Engine) -> None:
    with Session(engine) as session:
        app.tasks["t.add"].apply_async_on_commit(
            (1,), session=session, queue="new-queue", priority=9, countdown=3600, headers={"own": 1}
        )
        session.commit()
    (stats,) = app.broker.stats(["new-queue"])
    assert (stats.ready, stats.delayed) == (0, 1)
    app.broker.purge("new-queue")


def test_another_schema_is_another_database(app: Kernel, engine: Engine) -> None:
    app.broker.declare([])
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS aside"))
        connection.execute(text("CREATE TABLE IF NOT EXISTS aside.kernel_message (LIKE public.kernel_message)"))
    with Session(engine) as session:
        session.execute(text("SET LOCAL search_path TO aside"))
        app.tasks["t.add"].delay_on_commit(session, 1)
        session.commit()
    assert waiting(app) == [1]
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM aside.kernel_message")).scalar_one() == 0
        connection.execute(text("DROP SCHEMA aside CASCADE"))


def test_many_calls_of_one_transaction(app: Kernel, engine: Engine) -> None:
    with Session(engine) as session:
        for number in range(300):
            app.tasks["t.add"].delay_on_commit(session, number)
        session.commit()
    assert waiting(app) == list(range(300))


def test_two_phase_sessions_send_after_the_second(app: Kernel, engine: Engine) -> None:
    add: Any = app.tasks["t.add"]
    with Session(engine, twophase=True) as session:
        session.execute(ORDER, {"number": 1})
        add.delay_on_commit(session, 1)
        with session.begin_nested():
            add.delay_on_commit(session, 2)
        session.prepare()
        # Nobody can notify from a prepared transaction, so the messages are not part of it.
        assert waiting(app) == []
        session.commit()
        assert waiting(app) == [1, 2]
        add.delay_on_commit(session, 3)
        session.execute(ORDER, {"number": 2})
        session.prepare()
        session.rollback()
        add.delay_on_commit(session, 4)
        session.rollback()
    assert waiting(app) == [1, 2]
    assert count(engine) == 1


@pytest.mark.parametrize("end", ["commit", "prepare"])
def test_a_two_phase_session_that_cannot_be_prepared_sends_nothing(app: Kernel, engine: Engine, end: str) -> None:
    add: Any = app.tasks["t.add"]
    with Session(engine, twophase=True) as session:
        session.execute(ORDER, {"number": 1})
        add.delay_on_commit(session, 1)
        # The server prepares no transaction that has touched a temporary table.
        session.execute(text("CREATE TEMPORARY TABLE notes (number INTEGER)"))
        with pytest.raises(DBAPIError) as caught:
            getattr(session, end)()
        # To roll back, SQLAlchemy asks for what was never prepared; why it was not is said before that.
        assert "PREPARE" in f"{caught.value} {caught.value.__context__}"
        session.rollback()
        assert (waiting(app), count(engine)) == ([], 0)
        session.execute(ORDER, {"number": 2})
        add.delay_on_commit(session, 2)
        session.commit()
    assert (waiting(app), count(engine)) == ([2], 1)


def test_the_event_loop_goes_on_while_the_broker_is_opened(
    server: Server, engine: Engine, add_task: Callable[[Kernel], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    opened = Opened._open_broker

    def noted(self: Opened) -> Any:
        threads.append(threading.get_ident())
        return opened(self)

    async def work(app: Kernel, way: str) -> int:
        there = create_async_engine(_url(server))
        if way == "session":
            async with AsyncSession(there) as session, session.begin():
                app.tasks["t.add"].delay_on_commit(session, 1)
        else:
            async with there.begin() as connection:
                app.tasks["t.add"].delay_on_commit(connection, 1)
        await there.dispose()
        return threading.get_ident()

    monkeypatch.setattr(Opened, "_open_broker", noted)
    for way in ("session", "connection"):
        threads.clear()
        with add_task(Kernel("shop", broker=server.url)) as app:
            loop = asyncio.run(asyncio.wait_for(work(app, way), 60))
            assert len(threads) == 1
            assert loop not in threads
            assert waiting(app) == [1]
            app.broker.purge("celery")


def test_a_connection_without_a_session(app: Kernel, engine: Engine) -> None:
    with engine.begin() as connection:
        app.tasks["t.add"].delay_on_commit(connection, 1)
        connection.execute(ORDER, {"number": 5})
    with engine.connect() as connection:
        app.tasks["t.add"].delay_on_commit(connection, 2)
        connection.execute(ORDER, {"number": 6})
        connection.rollback()
    assert waiting(app) == [1]


@pytest.mark.parametrize("broker", ["same", "elsewhere"])
def test_asynchronous_sessions(
    server: Server, engine: Engine, add_task: Callable[[Kernel], Kernel], tmp_path: Any, broker: str
) -> None:
    url = server.url if broker == "same" else f"sqlite:///{tmp_path}/jobs.db"

    async def work(add: Any, app: Kernel) -> None:
        there = create_async_engine(_url(server))
        async with AsyncSession(there) as session:
            await session.execute(ORDER, {"number": 1})
            add.delay_on_commit(session, 1)
            async with session.begin_nested():
                add.delay_on_commit(session, 2)
            assert waiting(app) == []
            await session.commit()
            assert waiting(app) == [1, 2]
            add.delay_on_commit(session, 3)
            await session.rollback()
        async with there.begin() as connection:
            add.delay_on_commit(connection, 4)
            await connection.execute(ORDER, {"number": 2})
        await there.dispose()

    with add_task(Kernel("shop", broker=url)) as app:
        asyncio.run(asyncio.wait_for(work(app.tasks["t.add"], app), 60))
        assert waiting(app) == [1, 2, 4]
        app.broker.purge("celery")


def test_a_database_elsewhere_is_not_taken_for_the_brokers(app: Kernel, server: Server, engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE elsewhere"))
    other = create_engine(_url(server).rpartition("/")[0] + "/elsewhere")
    with Kernel("other", broker=other.url.render_as_string(False).replace("+psycopg", "")) as second:
        second.broker.declare([])
    with Session(other) as session:
        app.tasks["t.add"].delay_on_commit(session, 1)
        session.commit()
        assert session.execute(text("SELECT count(*) FROM kernel_message")).scalar_one() == 0
    other.dispose()
    assert waiting(app) == [1]
