"""Replies that the caller reads itself, while it alone waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from kernel_backend_rpc import RpcBackend, loan
from kernel_backend_rpc.loan import Loan
from kernel_backend_rpc.shelf import Shelf

from kernel import Kernel, errors
from kernel.extensions import Extensions
from kernel.interfaces.backend import Record
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import wait_for


class Caller:
    """A program whose thread calls and waits, and to which the connection is lent by now."""

    def __init__(self, app: Kernel) -> None:
        self.app = app
        self.backend = cast("RpcBackend", app.backend)
        self.loan = self.backend._inbox.loan
        for number in range(2):
            result = self.call()
            self.answer(result, number)
            assert result.get(timeout=20) == number
        wait_for(lambda: self.loan._read is not None, 10)

    def call(self) -> Any:
        return self.app.send_task("any", (1,), queue="nobody")

    def answer(self, result: Any, value: int) -> None:
        self.backend.store([Record(id=result.id, state="SUCCESS", result=b"%d" % value, reply_to=self.app.oid)])

    def meanwhile(self, act: Callable[[], None]) -> threading.Thread:
        """Have `act` done on a thread as soon as somebody reads."""

        def wait_and_act() -> None:
            wait_for(lambda: self.loan._reader is not None, 10)
            act()

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        return thread


@pytest.fixture
def caller(kernel_rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    monkeypatch.setattr(loan, "_KEPT_SECONDS", 60.0)
    app = Kernel("tests", broker=kernel_rabbitmq_url, backend="rpc://", include=[])
    app.extensions = Extensions(app.conf, autoload=False)
    yield Caller(app)
    app.close()


def test_who_waits_alone_reads(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[threading.Thread] = []
    take = Shelf.take

    def noted(shelf: Shelf, replies: Any) -> None:
        readers.append(threading.current_thread())
        take(shelf, replies)

    monkeypatch.setattr(Shelf, "take", noted)
    for number in range(5):
        result = caller.call()
        caller.answer(result, number)
        assert result.get(timeout=20) == number
    assert set(readers) == {threading.current_thread()}


def test_what_was_read_is_not_kept_by_the_server(caller: Caller, kernel_rabbitmq: RabbitProcess) -> None:
    for number in range(100):
        result = caller.call()
        caller.answer(result, number)
        assert result.get(timeout=20) == number
    vhost = caller.app.conf.broker_url.rpartition("/")[2]
    assert sum(kernel_rabbitmq.queues(vhost)[caller.app.oid]) <= 64
    # The thread, once it reads again, leaves none.
    caller.backend._inbox._recall()
    wait_for(lambda: kernel_rabbitmq.queues(vhost)[caller.app.oid] == (0, 0), 10)


def test_a_cut_connection_loses_nothing(caller: Caller, kernel_rabbitmq: RabbitProcess) -> None:
    result = caller.call()

    def cut() -> None:
        kernel_rabbitmq.close_connections()
        caller.answer(result, 7)

    thread = caller.meanwhile(cut)
    assert result.get(timeout=30) == 7
    thread.join(10)


def test_an_interrupt_loses_nothing(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Shelf.take
    raised: list[bool] = []

    def interrupted(shelf: Shelf, replies: Any) -> None:
        if not raised and threading.current_thread() is threading.main_thread():
            raised.append(True)
            raise KeyboardInterrupt
        take(shelf, replies)

    monkeypatch.setattr(Shelf, "take", interrupted)
    result = caller.call()
    caller.answer(result, 7)
    with pytest.raises(KeyboardInterrupt):
        result.get(timeout=20)
    assert result.get(timeout=20) == 7


def test_others_ask_for_states_while_one_reads(caller: Caller) -> None:
    result, other = caller.call(), caller.call()
    caller.answer(other, 3)
    found: list[bool] = []

    def ask() -> None:
        try:
            found.append(other.ready())
        finally:
            caller.answer(result, 7)

    thread = caller.meanwhile(ask)
    assert result.get(timeout=30) == 7
    thread.join(10)
    assert found == [True]


def test_who_waits_beside_the_reader_is_served_by_it_and_after_it(caller: Caller) -> None:
    mine, during, after = caller.call(), caller.call(), caller.call()
    got: list[int] = []

    def wait() -> None:
        caller.answer(during, 1)
        got.append(during.get(timeout=20))
        caller.answer(mine, 2)
        got.append(after.get(timeout=20))

    thread = caller.meanwhile(wait)
    assert mine.get(timeout=30) == 2
    caller.answer(after, 3)
    thread.join(20)
    assert got == [1, 3]


def test_an_app_is_closed_while_somebody_reads(caller: Caller) -> None:
    result = caller.call()
    thread = caller.meanwhile(caller.app.close)
    with pytest.raises(errors.OperationalError, match="closed"):
        result.get(timeout=30)
    thread.join(20)
    assert not thread.is_alive()


# --- without a server ---------------------------------------------------------------------------------------------


def read(seconds: float) -> None:
    """What nobody calls here."""
    raise AssertionError(seconds)


def lent(borrowed: Loan) -> threading.Thread:
    """A thread that lends it, for as long as it is used."""
    for _ in range(2):
        assert borrowed.enter() is None
        borrowed.leave()
    assert borrowed.wanted
    thread = threading.Thread(target=borrowed.lend, args=(read,), kwargs={"until": float("inf")})
    thread.start()
    wait_for(lambda: borrowed.stands(read), 10)
    return thread


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> Loan:
    monkeypatch.setattr(loan, "_KEPT_SECONDS", 60.0)
    return Loan(lambda: None)


def test_who_waits_now_and_then_is_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loan, "_KEPT_SECONDS", -1.0)
    now_and_then = Loan(lambda: None)
    for _ in range(3):
        now_and_then.enter()
        now_and_then.leave()
    assert not now_and_then.wanted


def test_it_is_lent_to_one(borrowed: Loan) -> None:
    thread = lent(borrowed)
    assert borrowed.enter() is read
    second: list[Any] = []
    other = threading.Thread(target=lambda: second.append(borrowed.enter()))
    other.start()
    other.join(10)
    assert second == [None]
    # Somebody waits still, and the thread reads for it.
    borrowed.leave()
    thread.join(10)
    assert not thread.is_alive()
    assert not borrowed.stands(read)


def test_a_recall_before_it_is_lent_counts(borrowed: Loan) -> None:
    for _ in range(2):
        borrowed.enter()
        borrowed.leave()
    borrowed.recall()
    borrowed.lend(read, until=float("inf"))
    assert borrowed.wanted


def test_the_thread_is_told_what_the_reader_met(borrowed: Loan) -> None:
    told: list[Exception] = []
    for _ in range(2):
        borrowed.enter()
        borrowed.leave()

    def lend() -> None:
        try:
            borrowed.lend(read, until=float("inf"))
        except errors.OperationalError as exc:
            told.append(exc)

    thread = threading.Thread(target=lend)
    thread.start()
    wait_for(lambda: borrowed.stands(read), 10)
    assert borrowed.enter() is read
    borrowed.give_back(errors.OperationalError("cut"))
    thread.join(10)
    assert [str(exc) for exc in told] == ["cut"]
    borrowed.leave()


def test_a_reader_that_does_not_come_back_is_not_waited_for(borrowed: Loan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loan, "_RETURN_SECONDS", 0.0)
    for _ in range(2):
        borrowed.enter()
        borrowed.leave()

    def read_for_ever() -> None:
        wait_for(lambda: borrowed.stands(read), 10)
        assert borrowed.enter() is read

    def ask() -> None:
        wait_for(lambda: borrowed._reader is not None, 10)
        borrowed.recall()

    threads = [threading.Thread(target=each) for each in (read_for_ever, ask)]
    for thread in threads:
        thread.start()
    with pytest.raises(errors.OperationalError, match="on end"):
        borrowed.lend(read, until=float("inf"))
    for thread in threads:
        thread.join(10)
