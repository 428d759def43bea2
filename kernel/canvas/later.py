"""`Later`: the members of a group that was made of a generator, which is read when they are first looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kernel.signature import Signature

Change = Callable[[Signature[Any]], Signature[Any]]


def _reading(name: str) -> Any:
    """The method of a list, of one that is all there."""
    method = getattr(list, name)

    def read_first(self: Later, *args: Any, **kwargs: Any) -> Any:
        self.read()
        return method(self, *args, **kwargs)

    read_first.__name__ = name
    return read_first


class Later(list[Signature[Any]]):
    """A list that is read from an iterator, once, when somebody asks for anything in it: serializers and copies do.

    What the iterator raises, and what `make` raises of an item, is raised then, each time.
    """

    def __init__(self, source: Iterator[Any], make: Callable[[Any], Signature[Any]]) -> None:
        super().__init__()
        self._source: Iterator[Any] | None = source
        self._make = make
        self._changes: list[Change] = []
        self._failed: BaseException | None = None

    @property
    def is_read(self) -> bool:
        return self._source is None

    def change(self, change: Change) -> None:
        """Put what `change` returns in the place of each member, now or when it is made."""
        if self.is_read:
            self[:] = [change(member) for member in self]
        else:
            self._changes.append(change)

    def read(self) -> None:
        """Read it, if that was not done."""
        if self._failed is not None:
            raise self._failed
        if self._source is None:
            return
        found = []
        try:
            for item in self._source:
                member = self._make(item)
                for change in self._changes:
                    member = change(member)
                found.append(member)
        except BaseException as exc:
            # A generator that raised is at its end: read again it would pass for a short one.
            self._failed = exc
            raise
        self._source = None
        super().extend(found)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)

    __iter__ = _reading("__iter__")
    __len__ = _reading("__len__")
    __getitem__ = _reading("__getitem__")
    __setitem__ = _reading("__setitem__")
    __delitem__ = _reading("__delitem__")
    __contains__ = _reading("__contains__")
    __reversed__ = _reading("__reversed__")
    __eq__ = _reading("__eq__")
    __ne__ = _reading("__ne__")
    __add__ = _reading("__add__")
    __iadd__ = _reading("__iadd__")
    __mul__ = _reading("__mul__")
    __repr__ = _reading("__repr__")
    append = _reading("append")
    extend = _reading("extend")
    insert = _reading("insert")
    remove = _reading("remove")
    pop = _reading("pop")
    clear = _reading("clear")
    index = _reading("index")
    count = _reading("count")
    reverse = _reading("reverse")
    sort = _reading("sort")
    copy = _reading("copy")
    __hash__ = None

    def __radd__(self, before: list[Any]) -> list[Any]:
        # Lists take what a list is made of, and ask it nothing.
        return [*before, *self]
