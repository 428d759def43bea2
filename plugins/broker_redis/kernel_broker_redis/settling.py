"""How claims of one consumer end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kernel import errors
from kernel.interfaces.broker import Delivery, Settled, Settlement, Verdict
from kernel_broker_redis import answers, ends, envelope, scripts
from kernel_broker_redis.holdings import Holdings
from kernel_broker_redis.owner import Owner
from kernel_broker_redis.registration import Registration

_AT_ONCE: Final = 1000
_OUTCOMES: Final = (Settled.STALE, Settled.DONE, Settled.JOINED, Settled.STANDING)
"""By the numbers that the server answers."""
_DONE: Final = _OUTCOMES.index(Settled.DONE)


class Settling:
    """Settles, and tells a server that has forgotten what is held of it before it believes that others have it. For one
    thread at a time. `claims` gives the number of the last claim; `unsure` are the tokens of what may be settled."""

    def __init__(
        self,
        owner: Owner,
        held: Holdings,
        registration: Registration,
        *,
        place: ends.Place,
        claims: Callable[[], int],
        unsure: set[str],
    ) -> None:
        self._owner = owner
        self._held = held
        self._registration = registration
        self._place = place
        self._claims = claims
        self._unsure = unsure

    def start(self, deliveries: Sequence[Delivery]) -> list[Settled]:
        """Record that these are about to start."""
        with self._registration.settling:
            done = self._start(deliveries)
            if not all(done) and self._registration.was_forgotten(self._claims()):
                done = self._start(deliveries)
        return [Settled.DONE if each else Settled.STALE for each in done]

    def _start(self, deliveries: Sequence[Delivery]) -> list[int]:
        found = [0] * len(deliveries)
        mine = [(at, delivery) for at, delivery in enumerate(deliveries) if self._owner.has(delivery)]
        for begin in range(0, len(mine), _AT_ONCE):
            part = mine[begin : begin + _AT_ONCE]
            words = [word for _, delivery in part for word in (*delivery.key, "s", 0, "", "")]
            replies = self._owner.run(scripts.END, *words, fits=answers.is_outcomes(len(part)))
            for (at, _), done in zip(part, replies, strict=True):
                found[at] = done
        return found

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """End these claims."""
        found = [Settled.STALE] * len(settlements)
        mine = [at for at, item in enumerate(settlements) if self._owner.has(item.delivery)]
        with self._registration.settling:
            try:
                done = self._settle(settlements, mine)
                missing = [at for at in mine if not done[at]]
                # One that is not there may have been done by a settlement whose answer was lost.
                lacks = any(settlements[at].delivery.token not in self._unsure for at in missing)
                if lacks and self._registration.was_forgotten(self._claims()):
                    done.update(self._settle(settlements, missing))
            except errors.OperationalError:
                # They may be done: when they are settled again, their absence does not mean that others have them.
                self._unsure.update(settlements[at].delivery.token for at in mine)
                raise
            for at, outcome in done.items():
                found[at] = _OUTCOMES[outcome]
            for at in missing:
                if not done[at]:
                    if settlements[at].delivery.token in self._unsure:
                        found[at] = Settled.DONE
                    self._note(settlements[at])
            if self._unsure:
                self._unsure.difference_update(settlements[at].delivery.token for at in mine)
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
        done = self._ack(settlements, acks)
        done.update(zip(rest, self._end(settlements, rest), strict=True))
        done.update(zip(whole, self._finish(finishes), strict=True))
        for at in (*rest, *whole):
            if done[at] == _DONE:
                self._note(settlements[at])
        return done

    def _note(self, item: Settlement) -> None:
        number = item.delivery.key[1]
        # A server that had not heard of an end with records or messages has not got these either.
        if item.verdict is Verdict.ACK and not ends.is_whole(item):
            self._held.acknowledged([number])
        else:
            self._held.put_back(number)

    def _ack(self, settlements: Sequence[Settlement], indexes: Sequence[int]) -> dict[int, int]:
        """Done with; what was is noted."""
        if not indexes:
            return {}
        groups: dict[str, list[int]] = {}
        numbers = []
        for at in indexes:
            key, number = settlements[at].delivery.key
            numbers.append(number)
            if key in groups:
                groups[key].append(at)
            else:
                groups[key] = [at]
        if len(groups) == 1:
            order, words = indexes, [*groups, len(numbers), *numbers]
        else:
            order, words = [at for members in groups.values() for at in members], []
            for key, members in groups.items():
                words += [key, len(members), *(settlements[at].delivery.key[1] for at in members)]
        replies = self._owner.run(scripts.ACK, *words, fits=answers.is_outcomes(len(indexes)))
        done = dict(zip(order, replies, strict=True))
        self._held.acknowledged(settlements[at].delivery.key[1] for at in order if done[at])
        return done

    def _end(self, settlements: Sequence[Settlement], indexes: Sequence[int]) -> list[int]:
        self._exchange([settlements[at].delivery for at in indexes if settlements[at].delivery.advanced])
        done: list[int] = []
        for begin in range(0, len(indexes), _AT_ONCE):
            part = indexes[begin : begin + _AT_ONCE]
            words = [word for at in part for word in ends.end_words(settlements[at])]
            done += self._owner.run(scripts.END, *words, fits=answers.is_outcomes(len(part)))
        return done

    def _exchange(self, deliveries: Sequence[Delivery]) -> None:
        """Have the server hold the messages that claims are of by now."""
        words = [word for each in deliveries for word in (*each.key, envelope.encode(each.message, each.queue))]
        if words:
            self._owner.run(scripts.EXCHANGE, *words, fits=answers.is_number)

    def _finish(self, finishes: Sequence[tuple[int, list[object]]]) -> list[int]:
        done: list[int] = []
        for count, words in finishes:
            done += self._owner.run(scripts.FINISH, *words, fits=answers.is_outcomes(count, len(_OUTCOMES) - 1))
        return done

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Back into their queues, uncharged: they were handed to nobody."""
        for each in deliveries:
            self._held.put_back(each.key[1])
        words = [word for each in deliveries for word in (*each.key, "r", 0, 0, "")]
        if words:
            self._owner.run(scripts.END, *words, fits=answers.is_outcomes(len(deliveries)))
