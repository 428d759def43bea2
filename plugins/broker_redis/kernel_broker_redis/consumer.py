"""One worker's claims and its lease."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_redis import Listener, RedisServer, unfitting

from kernel import errors
from kernel.interfaces.broker import ConsumeOptions, Delivery, Settled, Settlement, Verdict
from kernel_broker_redis import answers, ends, envelope, scripts
from kernel_broker_redis.door import Door
from kernel_broker_redis.holdings import Holdings
from kernel_broker_redis.layout import Layout
from kernel_broker_redis.reader import Reader

_log = logging.getLogger("kernel.redis")

_LOOK_EVERY: Final = 1.0
"""Seconds between looks for what foreign producers pushed into other lists than the first: they wake nobody."""
_AT_DOOR: Final = 2
_GRACE: Final = 0.001
_UNATTENDED: Final = 2.0
_NO_DOUBT: Final = -1, -1
_AT_ONCE: Final = 1000
_RESTORED_AT_ONCE: Final = 100
_OUTCOMES: Final = (Settled.STALE, Settled.DONE, Settled.JOINED, Settled.STANDING)
"""By the numbers that the server answers."""
_FORGOTTEN: Final = 2
"""How a server tells that it began with nothing since we last heard of it."""


class RedisConsumer:
    """Made by `RedisBroker.consume`.

    A claim's token is the consumer's id and a number that grows and is never used again, so a settlement that comes
    late finds nothing.
    """

    def __init__(
        self,
        server: RedisServer,
        layout: Layout,
        queues: Sequence[str],
        options: ConsumeOptions,
        *,
        place: ends.Place,
        closed: Callable[[RedisConsumer], None],
    ) -> None:
        self._server = server
        self._layout = layout
        self._queues = list(queues)
        self._lists = {name: layout.lists(name) for name in queues}
        self._queue_of = {key: name for name, keys in self._lists.items() for key in keys}
        self._order: list[str] = []
        self._options = options
        self._place = place
        self._closed = closed
        self._id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._claims = 0
        self._doubt = _NO_DOUBT
        self._unsure: set[str] = set()
        self._held = Holdings()
        self._reader = Reader()
        # Held by whoever settles, and by whoever tells a server again what is held.
        self._settling = threading.Lock()
        self._epoch = b""
        self._until = 0.0
        self._is_forgotten = False
        self._is_lost = False
        self._compared = 0
        self._turn = 0
        self._idle = False
        self._woken = threading.Event()
        self._is_closed = False
        self._fetching = threading.Lock()
        self._fetched_at = 0.0
        self._drained = False
        self._look_at = 0.0
        self._may_wait = False
        self._at_door = 0, 0
        self._front = layout.queue(self._queues[0])
        self._door = Door(server, self._front, layout.own(self._queues[0], f"aside:{self._id}"))
        self._bell = Listener(server)
        try:
            self._bell.subscribe_now([layout.wake(self._id)], server.timeout)
            self.renew()
        except BaseException:
            self._bell.close()
            raise

    # --- claiming -----------------------------------------------------------------------------------------------

    def fetch(self, limit: int, max_bytes: int, timeout: float) -> Sequence[Delivery]:
        end = time.monotonic() + timeout
        with self._fetching:
            try:
                self._mend()
                while not self._is_closed and limit > 0:
                    taken = self._step(limit, max_bytes, end)
                    if taken:
                        # What comes to the door must not lie there while there may be no room for it.
                        taken += self._leave()
                    if taken or self._woken.is_set() or time.monotonic() >= end:
                        self._woken.clear()
                        return taken
            except errors.OperationalError:
                self._drop_door()
                raise
            finally:
                self._fetched_at = time.monotonic()
        return []

    def _step(self, limit: int, max_bytes: int, end: float) -> list[Delivery]:
        """Claim once, or wait once."""
        if self._door.waits:
            taken = self._stand(end)
            return taken if self._drained or not taken else self._and_more(taken, limit, max_bytes)
        left = end - time.monotonic()
        if left <= 0 or not self._drained:
            return self._claim(limit, max_bytes)
        pause = min(left, self._look_at - time.monotonic())
        if pause <= 0:
            self._drained = False
        elif not self._may_wait or self._door.rests:
            if self._bell.read(pause):
                self._drained = False
        elif not self._woken.is_set():
            self._go_to_door(limit, max_bytes, self._look_at - time.monotonic())
        return []

    # --- at the door --------------------------------------------------------------------------------------------

    def _go_to_door(self, limit: int, max_bytes: int, seconds: float) -> None:
        """Wait for a push into the first list, or for the time to look at all. What is claimed then is little: the
        answer may find nobody who fetches."""
        with self._lock:
            self._at_door = self._claims, min(limit, _AT_DOOR)
            self._claims += _AT_DOOR
        words = self._words(*self._at_door, max_bytes, doubt=_NO_DOUBT)
        self._door.wait(seconds, scripts.CLAIM, self._layout.prefix, self._layout.sep, self._id, *words)

    def _stand(self, end: float) -> list[Delivery]:
        """Stand there, until somebody comes or rings."""
        door = self._door
        # A push that was over before this call may not have come through yet.
        rung = self._bell.read(max(_GRACE, min(end - time.monotonic(), door.left)), door.link)
        if door.ready():
            return self._enter(door.answer())
        # The claim behind looks at every list, whatever ends the wait.
        return self._enter(door.leave()) if rung else []

    def _enter(self, reply: Any) -> list[Delivery]:
        """What the claim at the door brought, if it was made."""
        first, limit = self._at_door
        if reply is None:
            self._drained = False
            return []
        if not answers.is_claim(len(self._order))(reply):
            self._unheard(first, limit)
            self._door.drop()
            raise unfitting(reply, self._server.shown)
        return self._came(reply, first, limit)

    def _and_more(self, taken: list[Delivery], limit: int, max_bytes: int) -> list[Delivery]:
        """Behind the first ones there are others."""
        limit, max_bytes = limit - len(taken), max_bytes - sum(each.size for each in taken)
        if limit > 0 and max_bytes > 0:
            # What was taken must be handed out, whatever happens to the server.
            with suppress(errors.OperationalError):
                taken += self._claim(limit, max_bytes)
        return taken

    def _leave(self) -> list[Delivery]:
        """Away from the door, with what came to it. Raises nothing."""
        try:
            return self._enter(self._door.leave()) if self._door.waits else []
        except errors.OperationalError:
            self._drop_door()
            return []

    def _drop_door(self) -> None:
        self._drained = False
        if self._door.waits:
            self._unheard(*self._at_door)
        self._door.drop()

    def _give_way(self) -> None:
        """A worker that has no room, or claims no more, must not stand at the door."""
        if not self._door.waits or time.monotonic() - self._fetched_at < _UNATTENDED:
            return
        if self._fetching.acquire(blocking=False):
            try:
                back = self._leave()
                for each in back:
                    self._held.put_back(each.key[1])
                words = [word for each in back for word in (*each.key, "r", 0, 0, "")]
                if words:
                    self._run(scripts.END, *words, fits=answers.is_outcomes(len(back)))
            finally:
                self._fetching.release()

    # --- claims -------------------------------------------------------------------------------------------------

    def _unheard(self, first: int, count: int) -> None:
        """Claims with these numbers may have been made, and nobody knows which."""
        low, high = self._doubt
        self._doubt = (first if low < 0 else min(low, first)), max(high, first + count)

    def _words(self, first: int, limit: int, max_bytes: int, *, doubt: tuple[int, int]) -> list[object]:
        return [
            self._options.owner, self._lease, first, limit, max_bytes, int(self._idle),
            len(self._layout.steps), *doubt, self._front, self._epoch, *self._order,
        ]  # fmt: skip

    def _claim(self, limit: int, max_bytes: int) -> list[Delivery]:
        """What could be claimed now."""
        with self._lock:
            if self._is_closed:
                return []
            queues = self._queues[self._turn :] + self._queues[: self._turn]
            self._turn = (self._turn + 1) % len(self._queues)
            self._order = [key for name in queues for key in self._lists[name]]
            first = self._claims
            # Before the call: numbers of a claim that we never hear of are not used again.
            self._claims += limit
            try:
                words = self._words(first, limit, max_bytes, doubt=self._doubt)
                reply = self._run(scripts.CLAIM, *words, fits=answers.is_claim(len(self._order)))
            except errors.OperationalError:
                self._unheard(first, limit)
                raise
            self._doubt = _NO_DOUBT
        return self._came(reply, first, limit)

    def _came(self, reply: Sequence[Any], first: int, limit: int) -> list[Delivery]:
        now, look, _, drained, may_wait = reply[: answers.HEAD]
        self._may_wait = bool(may_wait)
        self._drained = self._idle = bool(drained)
        pause = _LOOK_EVERY if look < 0 else min(_LOOK_EVERY, max(0.001, (look - now) / 1000))
        self._look_at = time.monotonic() + pause
        return self._deliveries(self._order, reply, first)

    def _deliveries(self, lists: Sequence[str], reply: Sequence[Any], first: int) -> list[Delivery]:
        if reply[2]:
            self._registered_again(reply[2], first)
        at = time.time()
        return [
            self._delivery(self._queue_of[lists[reply[i]]], lists[reply[i]], first + n, reply[i + 1], reply[i + 2], at)
            for n, i in enumerate(range(answers.HEAD, len(reply), 3), 1)
        ]

    def _delivery(self, queue: str, key: str, number: int, starts: int, raw: bytes, at: float) -> Delivery:
        delivery = Delivery(
            self._reader.decode(raw),
            queue,
            f"{self._id}-{number}",
            key=(key, number),
            starts=max(0, starts),
            seen=starts >= 0,
            claimed_at=at,
        )
        self._held.add(number, delivery)
        return delivery

    @property
    def _lease(self) -> int:
        return max(1, round(self._options.lease * 1000))

    def _run(self, script: Any, *args: object, fits: Callable[[Any], bool] | None = None) -> Any:
        return self._server.script(script, self._layout.prefix, self._layout.sep, self._id, *args, fits=fits)

    # --- ends ---------------------------------------------------------------------------------------------------

    def start(self, deliveries: Sequence[Delivery]) -> Sequence[Settled]:
        if not deliveries or self._is_closed:
            return [Settled.STALE] * len(deliveries)
        with self._settling:
            done = self._start(deliveries)
            if not all(done) and self._was_forgotten():
                done = self._start(deliveries)
        return [Settled.DONE if each else Settled.STALE for each in done]

    def _start(self, deliveries: Sequence[Delivery]) -> list[int]:
        found = [0] * len(deliveries)
        mine = [(at, delivery) for at, delivery in enumerate(deliveries) if self._is_mine(delivery)]
        for begin in range(0, len(mine), _AT_ONCE):
            part = mine[begin : begin + _AT_ONCE]
            words = [word for _, delivery in part for word in (*delivery.key, "s", 0, "", "")]
            replies = self._run(scripts.END, *words, fits=answers.is_outcomes(len(part)))
            for (at, _), done in zip(part, replies, strict=True):
                found[at] = done
        return found

    def lend(self, delivery: Delivery) -> str | None:
        key: str = delivery.key[0]
        return key

    def finished(self, delivery: Delivery) -> None:
        # Should a server not have heard of its end, neither has it what belonged to it.
        self._held.put_back(delivery.key[1])

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        found = [Settled.STALE] * len(settlements)
        if self._is_closed:
            return found
        self._give_way()
        mine = [at for at, item in enumerate(settlements) if self._is_mine(item.delivery)]
        with self._settling:
            try:
                done = self._settle(settlements, mine)
                missing = [at for at in mine if not done[at]]
                # One that is not there may have been done by a settlement whose answer was lost.
                lacks = any(settlements[at].delivery.token not in self._unsure for at in missing)
                if lacks and self._was_forgotten():
                    done.update(self._settle(settlements, missing))
            except errors.OperationalError:
                # They may be done: when they are settled again, their absence does not mean that others have them.
                self._unsure.update(settlements[at].delivery.token for at in mine)
                raise
            for at in mine:
                token = settlements[at].delivery.token
                found[at] = _OUTCOMES[done[at] or int(token in self._unsure)]
                self._unsure.discard(token)
                if not done[at]:
                    self._note(settlements[at])
        return found

    def _settle(self, settlements: Sequence[Settlement], mine: Sequence[int]) -> dict[int, int]:
        """What became of each of these (`_OUTCOMES`). What was settled is noted as that."""
        acks: list[int] = []
        whole: list[int] = []
        rest: list[int] = []
        for at in mine:
            item = settlements[at]
            if ends.is_whole(item):
                whole.append(at)
            else:
                (acks if item.verdict is Verdict.ACK else rest).append(at)
        # The oldest is put back last, and so comes to lie in front.
        rest.sort(key=lambda at: -settlements[at].delivery.key[1])
        # Whatever of it is refused is refused before anything is done.
        finishes = [*ends.finishes([settlements[at] for at in whole], self._place)]
        done = dict(zip(acks, self._ack(settlements, acks), strict=True))
        done.update(zip(rest, self._end(settlements, rest), strict=True))
        done.update(zip(whole, self._finish(finishes), strict=True))
        for at, outcome in done.items():
            if _OUTCOMES[outcome] is Settled.DONE:
                self._note(settlements[at])
        return done

    def _note(self, item: Settlement) -> None:
        number = item.delivery.key[1]
        # A server that had not heard of an end with records or messages has not got these either.
        if item.verdict is Verdict.ACK and not ends.is_whole(item):
            self._held.acknowledged(number)
        else:
            self._held.put_back(number)

    def _is_mine(self, delivery: Delivery) -> bool:
        return delivery.token.startswith(self._id)

    def _ack(self, settlements: Sequence[Settlement], indexes: list[int]) -> list[int]:
        if not indexes:
            return []
        groups: dict[str, list[int]] = {}
        for at in indexes:
            groups.setdefault(settlements[at].delivery.key[0], []).append(at)
        words: list[object] = []
        for key, members in groups.items():
            words += [key, len(members), *(settlements[at].delivery.key[1] for at in members)]
        replies: list[int] = self._run(scripts.ACK, *words, fits=answers.is_outcomes(len(indexes)))
        if len(groups) == 1:
            return replies
        order = [at for members in groups.values() for at in members]
        done = dict(zip(order, replies, strict=True))
        return [done[at] for at in indexes]

    def _end(self, settlements: Sequence[Settlement], indexes: list[int]) -> list[int]:
        self._exchange([settlements[at].delivery for at in indexes if settlements[at].delivery.advanced])
        done: list[int] = []
        for begin in range(0, len(indexes), _AT_ONCE):
            part = indexes[begin : begin + _AT_ONCE]
            words = [word for at in part for word in ends.end_words(settlements[at])]
            done += self._run(scripts.END, *words, fits=answers.is_outcomes(len(part)))
        return done

    def _exchange(self, deliveries: Sequence[Delivery]) -> None:
        """Have the server hold the messages that claims are of by now."""
        words = [word for each in deliveries for word in (*each.key, envelope.encode(each.message, each.queue))]
        if words:
            self._run(scripts.EXCHANGE, *words, fits=answers.is_number)

    def _finish(self, finishes: Sequence[tuple[int, list[object]]]) -> list[int]:
        done: list[int] = []
        for count, words in finishes:
            done += self._run(scripts.FINISH, *words, fits=answers.is_outcomes(count, len(_OUTCOMES) - 1))
        return done

    # --- the lease ----------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._is_closed:
            return False
        with suppress(errors.OperationalError):
            self._give_way()
        kept = self._ask()
        # Whoever settles now does it himself.
        if self._is_forgotten and self._settling.acquire(blocking=False):
            try:
                with suppress(errors.OperationalError):
                    self._restore()
            finally:
                self._settling.release()
        # A claim may have found before that the lease was lost.
        kept, self._is_lost = kept and not self._is_lost, False
        return kept

    def _ask(self) -> bool:
        """Renew the lease; whether what was claimed is ours still."""
        asked, claims = time.monotonic(), self._claims
        lists = [key for keys in self._lists.values() for key in keys]
        known = self._epoch
        how, self._epoch = self._run(
            scripts.RENEW, self._options.owner, self._lease, claims, known, *lists, fits=answers.is_lease
        )
        if not how and self._epoch != known:
            # A claim of ours came first, and its answer has not been read.
            how = _FORGOTTEN
        kept = not how or self._registered_again(how, claims)
        self._until = asked + self._options.lease
        return kept

    def _registered_again(self, how: int, claims: int) -> bool:
        """The server did not know us. Whether what we have up to this claim is ours still: what a server has forgotten
        while our lease held can be nobody else's."""
        if how == _FORGOTTEN and time.monotonic() < self._until:
            self._is_forgotten = True
            return True
        self._is_lost, self._is_forgotten = True, False
        self._held.void(claims)
        self._unsure.clear()
        return False

    def _was_forgotten(self) -> bool:
        """Ask whether the server has forgotten what we hold; if so, tell it again. For whoever has `_settling`."""
        if not self._is_forgotten:
            self._ask()
        return self._is_forgotten and self._restore()

    def _restore(self) -> bool:
        """Tell the server again what we hold; False when it has forgotten us once more."""
        claims = self._held.restorable()
        for begin in range(0, len(claims), _RESTORED_AT_ONCE):
            words = [word for claim in claims[begin : begin + _RESTORED_AT_ONCE] for word in claim]
            if not self._run(scripts.RESTORE, *words, fits=answers.is_number):
                return False
        self._is_forgotten = False
        _log.warning("%s has lost all it had; it was told again of %d claims", self._server.shown, len(claims))
        return True

    def _mend(self) -> None:
        """Before anything is claimed: what the server knows of us, and we of it, is made the same."""
        with self._settling:
            if self._is_forgotten:
                self._restore()
            if self._server.connected != self._compared:
                # Who answers now may be another, and know less.
                self._compare()
                self._compared = self._server.connected

    def _compare(self) -> None:
        """Settle again what a server holds for us though we settled it: a replica that had not heard of it."""
        lists = list(self._queue_of)
        found = self._run(scripts.HELD, *lists, fits=answers.is_numbers(len(lists)))
        low, high = self._doubt
        heard = self._at_door[0] if self._door.waits else self._claims
        words: list[object] = []
        for key, numbers in zip(lists, found, strict=True):
            # Claims that nobody heard of are given back by the next one.
            sure = [number for number in map(int, numbers) if number <= heard and not low < number <= high]
            # The oldest is put back last, as always.
            for number, done_with in self._held.strays(sorted(sure, reverse=True)):
                words += [key, number, "a" if done_with else "r", 0, 0, ""]
        if words:
            count = len(words) // 6
            _log.warning("%s had not heard of %d settlements; they are made again", self._server.shown, count)
            self._run(scripts.END, *words, fits=answers.is_outcomes(count))

    def wake(self) -> None:
        self._woken.set()
        self._bell.wake()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._bell.close()
        self._door.close()
        try:
            # A claim that is under way would be made after its owner was gone.
            with self._lock:
                self._run(scripts.RELEASE)
        finally:
            self._closed(self)
