"""Calls that wait for a session to commit, wherever the broker is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from kernel import Exchange, Kernel, Queue, errors
from kernel.hooks import hookimpl
from kernel.request import Request, current_request

ORDER = text("INSERT INTO orders (number) VALUES (:number)")


def waiting(app: Kernel) -> list[int]:
    """The first arguments of the calls that are on the broker, in order."""
    return [app.codecs.decode_body(message)[0][0] for message in app.broker.peek("celery", 100)]


def fail_in(block: Any, app: Kernel, session: Any) -> None:
    with block:
        app.tasks["t.add"].delay_on_commit(session, 99)
        raise ZeroDivisionError


def orders(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT number FROM orders ORDER BY number")).scalars())


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def test_it_is_sent_when_the_session_commits(app: Kernel, engine: Engine, session: Session) -> None:
    add: Any = app.tasks["t.add"]
    session.execute(ORDER, {"number": 1})
    first = add.delay_on_commit(session, 1, y=2)
    second = add.apply_async_on_commit((2,), {"y": 3}, session=session, countdown=0, priority=0)
    assert waiting(app) == []
    session.commit()
    assert waiting(app) == [1, 2]
    assert [message.id for message in app.broker.peek("celery", 9)] == [first.id, second.id]
    assert orders(engine) == [1]
    session.commit()
    assert waiting(app) == [1, 2]


def test_a_session_that_did_nothing_else_has_something_to_commit(app: Kernel, session: Session) -> None:
    app.tasks["t.add"].delay_on_commit(session, 1)
    session.commit()
    assert waiting(app) == [1]


@pytest.mark.parametrize("end", ["rollback", "close", "error", "invalidate", "expunge"])
def test_nothing_is_sent_of_what_did_not_commit(app: Kernel, engine: Engine, session: Session, end: str) -> None:
    session.execute(ORDER, {"number": 1})
    app.tasks["t.add"].delay_on_commit(session, 1)
    if end == "rollback":
        session.rollback()
    elif end == "close":
        session.close()
    elif end == "invalidate":
        session.invalidate()
    elif end == "error":
        with pytest.raises(IntegrityError):
            session.execute(ORDER, {"number": 1})
        session.rollback()
    else:
        session.reset()
    # What follows in the same session is another transaction.
    session.execute(ORDER, {"number": 2})
    session.commit()
    assert waiting(app) == []
    assert orders(engine) == [2]


def test_a_block_of_a_session_sends_at_its_end(app: Kernel, session: Session) -> None:
    with session.begin():
        app.tasks["t.add"].delay_on_commit(session, 1)
        assert waiting(app) == []
    assert waiting(app) == [1]
    with pytest.raises(ZeroDivisionError):
        fail_in(session.begin(), app, session)
    assert waiting(app) == [1]


def test_savepoints_take_with_them_what_was_called_in_them(app: Kernel, engine: Engine, session: Session) -> None:
    add: Any = app.tasks["t.add"]
    add.delay_on_commit(session, 1)
    with session.begin_nested():
        session.execute(ORDER, {"number": 1})
        add.delay_on_commit(session, 2)
        inner = session.begin_nested()
        add.delay_on_commit(session, 3)
        inner.rollback()
        with session.begin_nested():
            add.delay_on_commit(session, 4)
    outer = session.begin_nested()
    session.execute(ORDER, {"number": 2})
    with session.begin_nested():
        add.delay_on_commit(session, 5)
    outer.rollback()
    add.delay_on_commit(session, 6)
    assert waiting(app) == []
    session.commit()
    assert sorted(waiting(app)) == [1, 2, 4, 6]
    assert orders(engine) == [1]


def test_a_savepoint_that_was_released_still_needs_the_commit(app: Kernel, session: Session) -> None:
    with session.begin_nested():
        app.tasks["t.add"].delay_on_commit(session, 1)
    session.rollback()
    session.commit()
    assert waiting(app) == []


def test_a_commit_with_savepoints_open_commits_them(app: Kernel, session: Session) -> None:
    session.begin_nested()
    session.begin_nested()
    app.tasks["t.add"].delay_on_commit(session, 1)
    session.commit()
    assert waiting(app) == [1]


def test_a_commit_that_fails_sends_nothing(app: Kernel, engine: Engine, session: Session) -> None:
    session.execute(ORDER, {"number": 1})
    app.tasks["t.add"].delay_on_commit(session, 1)

    class Forced(Exception):
        pass

    def refuse(session: Session) -> None:
        raise Forced

    event.listen(session, "before_commit", refuse)
    with pytest.raises(Forced):
        session.commit()
    session.rollback()
    assert waiting(app) == []
    assert orders(engine) == []


def test_what_is_wrong_with_a_call_is_told_at_once(app: Kernel, session: Session) -> None:
    add: Any = app.tasks["t.add"]
    with pytest.raises(TypeError, match="missing"):
        add.delay_on_commit(session)
    with pytest.raises(errors.EncodeError):
        add.delay_on_commit(session, object())
    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        add.apply_async_on_commit((1,), session=session, countdwn=3)
    with pytest.raises(TypeError, match="session is 5, of which no plugin knows a transaction"):
        add.apply_async_on_commit((1,), session=5)
    with pytest.raises(errors.ImproperlyConfigured, match="set task_on_commit_session"):
        add.delay_on_commit(1)
    with pytest.raises(errors.ImproperlyConfigured, match="give a session"):
        add.apply_async_on_commit((1,))
    session.commit()
    assert waiting(app) == []


def test_arguments_are_those_of_the_call(app: Kernel, session: Session) -> None:
    values = [1]
    app.tasks["t.add"].apply_async_on_commit(values, session=session)
    values[0] = 2
    session.commit()
    assert waiting(app) == [1]


def test_sessions_of_two_threads_do_not_meet(app: Kernel, engine: Engine) -> None:
    add: Any = app.tasks["t.add"]
    barrier = threading.Barrier(4, timeout=60)

    def work(number: int) -> None:
        for turn in range(5):
            with Session(engine) as session:
                add.delay_on_commit(session, 10 * number + turn)
                barrier.wait()
                if (number + turn) % 2:
                    session.commit()
                else:
                    session.rollback()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(waiting(app)) == sorted(10 * n + t for n in range(4) for t in range(5) if (n + t) % 2)


# --- which session --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["scoped", "factory", "text"])
def test_the_setting_says_whose_commit_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    registry = scoped_session(sessionmaker(engine))
    monkeypatch.setattr("sys.path", ["."], raising=False)
    holder = type(pytest)("shop_of_this_test")
    holder.db = type("Database", (), {"session": registry})  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "shop_of_this_test", holder)
    settings = {"scoped": registry, "factory": lambda: registry(), "text": "shop_of_this_test:db.session"}
    with Kernel("shop", broker="memory://", task_on_commit_session=settings[form]) as app:

        @app.task(name="t.add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        add.delay_on_commit(1)
        add.apply_async_on_commit((2,))
        assert waiting(app) == []
        registry.commit()
        assert waiting(app) == [1, 2]
        add.delay_on_commit(registry, 3)
        with Session(engine) as other:
            add.delay_on_commit(other, 4)
            other.commit()
        assert waiting(app) == [1, 2, 4]
        registry.remove()
        assert waiting(app) == [1, 2, 4]


def test_a_setting_that_leads_nowhere_is_told() -> None:
    for wrong, why in (
        ("no_such_module:x", "cannot be loaded"),
        (lambda: 5, "gives no session"),
        (7, "gives no session"),
    ):
        with Kernel("shop", broker="memory://", task_on_commit_session=wrong) as app:
            task: Any = app.task(name="t.one")(lambda x: x)
            with pytest.raises(errors.InvalidSetting, match=why):
                task.delay_on_commit(1)


def test_without_the_plugin_the_error_says_what_to_install(engine: Engine) -> None:
    with Kernel("shop", broker="memory://", disable_plugins=["sqlalchemy"], task_on_commit_session=5) as app:
        task: Any = app.task(name="t.one")(lambda x: x)
        with pytest.raises(errors.ImproperlyConfigured, match="install kernel-contrib-sqlalchemy"):
            task.delay_on_commit(1)
        with Session(engine) as session, pytest.raises(TypeError, match="need kernel-contrib-sqlalchemy"):
            task.apply_async_on_commit((1,), session=session)


def test_a_session_that_is_not_begun_by_itself_is_not_begun(engine: Engine, app: Kernel) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(InvalidRequestError):
            session.connection()
        session.begin()
        app.tasks["t.add"].delay_on_commit(session, 1)
        session.commit()
    assert waiting(app) == [1]


def test_info_that_is_shared_by_sessions_does_not_join_them(engine: Engine, app: Kernel) -> None:
    shared: dict[Any, Any] = {}
    add: Any = app.tasks["t.add"]
    with Session(engine) as one, Session(engine) as other:
        one.info, other.info = shared, shared
        add.delay_on_commit(one, 1)
        add.delay_on_commit(other, 2)
        one.rollback()
        other.commit()
    assert waiting(app) == [2]


# --- transactions that are not the session's own --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "conditional_savepoint", "control_fully"])
@pytest.mark.parametrize("commits", [True, False])
def test_a_session_in_somebody_elses_transaction_waits_for_that(
    app: Kernel, engine: Engine, mode: Any, commits: bool
) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.execute(ORDER, {"number": 1})
            app.tasks["t.add"].delay_on_commit(session, 1)
            session.commit()
            ended = mode == "control_fully"
            assert waiting(app) == ([1] if ended else [])
        if outer.is_active:
            if commits:
                outer.commit()
            else:
                outer.rollback()
    assert waiting(app) == ([1] if commits or ended else [])
    assert orders(engine) == ([1] if commits or ended else [])


def test_connections_can_be_waited_for_without_a_session(app: Kernel, engine: Engine) -> None:
    add: Any = app.tasks["t.add"]
    with engine.begin() as connection:
        connection.execute(ORDER, {"number": 1})
        add.delay_on_commit(connection, 1)
        with connection.begin_nested():
            add.delay_on_commit(connection, 2)
        savepoint = connection.begin_nested()
        add.delay_on_commit(connection, 3)
        with connection.begin_nested():
            add.delay_on_commit(connection, 4)
        savepoint.rollback()
        add.delay_on_commit(connection, 5)
        assert waiting(app) == []
    assert waiting(app) == [1, 2, 5]
    with engine.connect() as connection:
        connection.execute(ORDER, {"number": 2})
        add.delay_on_commit(connection, 6)
    with engine.connect() as connection, pytest.raises(ZeroDivisionError):
        fail_in(connection.begin(), app, connection)
    with engine.connect() as connection:
        outer = connection.begin()
        savepoint = connection.begin_nested()
        add.delay_on_commit(connection, 8)
        savepoint.rollback()
        outer.commit()
    assert waiting(app) == [1, 2, 5]
    assert orders(engine) == [1]


# --- what happens around it -----------------------------------------------------------------------------------


def test_a_broker_that_is_away_is_told_after_the_commit(engine: Engine) -> None:
    with Kernel("shop", broker="redis://127.0.0.1:1/0", task_publish_retry=False) as app, Session(engine) as session:
        task: Any = app.task(name="t.one")(lambda x: x)
        session.execute(ORDER, {"number": 1})
        task.delay_on_commit(session, 1)
        with pytest.raises(errors.OperationalError) as caught:
            session.commit()
        assert "the transaction was committed before" in "".join(caught.value.__notes__)
        assert orders(engine) == [1]
        task.apply_async_on_commit((1,), session=session, retry=False)
        task.apply_async_on_commit((2,), session=session, retry=False)
        with pytest.raises(ExceptionGroup, match="2 calls were not sent"):
            session.commit()
        # The session goes on.
        session.execute(ORDER, {"number": 2})
        session.commit()
    assert orders(engine) == [1, 2]


def test_plugins_and_parents_hear_of_it_when_it_is_sent(engine: Engine, app: Kernel, session: Session) -> None:
    heard: list[tuple[str, object]] = []

    class Plugin:
        @hookimpl
        def kernel_publish_end(self, publication: Any, error: BaseException | None) -> None:
            heard.append((publication.message.id, error))

    app.extensions.register(Plugin())
    request = Request(app=app, id="parent", task="t.parent", root_id="root", called_directly=False)
    token = current_request.set(request)
    try:
        result = app.tasks["t.add"].delay_on_commit(session, 1)
        assert heard == []
        assert request.children == []
        session.commit()
    finally:
        current_request.reset(token)
    assert heard == [(result.id, None)]
    assert [child.id for child in request.children] == [result.id]
    (message,) = app.broker.peek("celery", 1)
    assert (message.headers["root_id"], message.headers["parent_id"]) == ("root", "parent")


def test_in_eager_mode_it_runs_after_the_commit(engine: Engine) -> None:
    seen: list[int] = []
    with Kernel("shop", broker="memory://", task_always_eager=True) as app, Session(engine) as session:

        @app.task(name="t.see")
        def see(x: int) -> None:
            seen.append(x)
            # The same session is usable again.
            assert orders(engine) == [1]

        session.execute(ORDER, {"number": 1})
        result = see.delay_on_commit(session, 1)
        see.apply_async_on_commit((2,), session=session)
        assert seen == []
        session.commit()
        assert seen == [1, 2]
        assert result.id
        see.delay_on_commit(session, 3)
        session.rollback()
    assert seen == [1, 2]


def test_a_connection_that_was_named_is_the_one_it_is_sent_over(engine: Engine, app: Kernel, session: Session) -> None:
    with app.connection_for_write() as connection:
        app.tasks["t.add"].apply_async_on_commit((1,), session=session, connection=connection)
        session.commit()
        assert connection.connected
    assert waiting(app) == [1]


def test_another_database_that_looks_alike_is_not_written_to(tmp_path: Any, engine: Engine) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    with Kernel("shop", broker=f"sqlite:///{tmp_path}/shop.db") as app, Session(other) as session:
        task: Any = app.task(name="t.one")(lambda x: x)
        app.broker.declare([])
        with Kernel("shop2", broker=f"sqlite:///{tmp_path}/other.db") as second:
            second.broker.declare([])
        task.delay_on_commit(session, 1)
        session.commit()
        assert waiting(app) == [1]
        assert session.execute(text("SELECT count(*) FROM kernel_message")).scalar_one() == 0
    other.dispose()


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_exchanges_are_resolved(engine: Engine, tmp_path: Any, kind: str) -> None:
    exchange = Exchange("shop", type=kind)
    queues = [Queue("one", exchange, "order.new"), Queue("two", exchange, "order.new"), Queue("three", exchange, "no")]
    url = f"sqlite:///{tmp_path}/shop.db"
    with Kernel("shop", broker=url, task_queues=queues) as app, Session(engine) as session:
        task: Any = app.task(name="t.one")(lambda x: x)
        app.broker.declare([])
        task.apply_async_on_commit((1,), session=session, exchange="shop", routing_key="order.new")
        ready: list[dict[str, int]] = []

        def look(session: Session) -> None:
            ready.append({item.name: item.ready for item in app.broker.stats()})

        event.listen(session, "after_commit", look)
        session.commit()
        look(session)
        reached = {"one": 1, "two": 1, **({"three": 1} if kind == "fanout" else {})}
        assert {name: count for name, count in ready[1].items() if count} == reached
        # Save for the fanout, it was part of the transaction.
        assert {name: count for name, count in ready[0].items() if count} == ({} if kind == "fanout" else reached)
        if kind != "fanout":
            task.apply_async_on_commit((1,), session=session, exchange="shop", routing_key="nobody")
            with pytest.raises(errors.PublishRefused, match="no queue is bound to the exchange 'shop'"):
                session.commit()
            session.rollback()
