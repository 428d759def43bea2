"""What waits in the engine."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from kernel.worker.claims.item import Item


class ReadyQueue:
    """What waits in the engine: queues take turns, each first in, first out. Its length is that of what may go."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0
        self._copies: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return self._length

    def hold(self, item: Item) -> None:
        """One that has its turn when the other copy of its message, which is in hand, has ended: whether it has to be
        run is known then."""
        self._copies.setdefault(item.id, deque()).append(item)

    def free(self, id: str) -> None:
        """A message with this id has left: the turn of its oldest copy here has come."""
        waiting = self._copies.get(id) if self._copies else None
        if waiting is not None:
            self.add_front(waiting.popleft())
            if not waiting:
                del self._copies[id]

    def add(self, item: Item) -> None:
        self._line(item.delivery.queue).append(item)
        self._length += 1

    def _line(self, name: str) -> deque[Item]:
        line = self._queues.get(name)
        if line is None:
            line = self._queues[name] = deque()
        return line

    def add_front(self, item: Item) -> None:
        """Back to where it came from: next of its queue, and its queue next."""
        name = item.delivery.queue
        self._line(name).appendleft(item)
        self._queues.move_to_end(name, last=False)
        self._length += 1

    def pop(self, fits: Callable[[Item], bool]) -> Item | None:
        """The next item, if it fits; its queue goes to the end of the turn. None when the one whose turn it
        is does not fit: nobody overtakes inside a queue, other queues are tried."""
        for name, queue in self._queues.items():
            if fits(queue[0]):
                item = queue.popleft()
                self._length -= 1
                if queue:
                    self._queues.move_to_end(name)
                else:
                    del self._queues[name]
                return item
        return None

    def pop_more(self, fits: Callable[[Item], bool], limit: int) -> list[Item]:
        """Up to so many, each as `pop` gives the next one."""
        found: list[Item] = []
        while len(found) < limit and self._queues:
            if len(self._queues) > 1:
                item = self.pop(fits)
                if item is None:
                    break
                found.append(item)
                continue
            ((name, line),) = self._queues.items()
            before = len(found)
            while line and len(found) < limit and fits(line[0]):
                found.append(line.popleft())
            self._length -= len(found) - before
            if line:
                break
            del self._queues[name]
        return found

    def remove(self, item: Item) -> bool:
        """Take out an item; False when it is not here."""
        copies = self._copies.get(item.id)
        if copies is not None and item in copies:
            copies.remove(item)
            if not copies:
                del self._copies[item.id]
            return True
        queue = self._queues.get(item.delivery.queue)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        self._length -= 1
        if not queue:
            del self._queues[item.delivery.queue]
        return True

    def clear(self) -> list[Item]:
        items = [item for queue in (*self._queues.values(), *self._copies.values()) for item in queue]
        self._queues.clear()
        self._copies.clear()
        self._length = 0
        return items
