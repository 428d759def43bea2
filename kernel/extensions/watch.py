"""Which plugin is at work, since when, and how often it failed: what is noted around every call of a hook."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kernel import errors
from kernel.extensions.hot import Bound

_log = logging.getLogger("kernel.extensions")

Running = tuple[str, str, float]

_QUIET: Final = 30.0
"""Seconds between two records about the same plugin failing in the same hook."""


class HookWatch:
    """The notes of one app. A thread notes the hook that it is about to call, so that another one, which calls no
    hooks, can name a plugin that blocks for ever. Usable from any thread."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._told: dict[tuple[str, str], float] = {}

    @property
    def running(self) -> Running | None:
        """The hook that has been running longest: plugin, hook, and since when (`time.monotonic`)."""
        now = self._running.copy()
        return min(now.values(), key=lambda note: note[2]) if now else None

    @property
    def error_counts(self) -> Mapping[tuple[str, str], int]:
        """How often a plugin failed in an observing hook, by plugin and hook."""
        return dict(self._counts)

    def observe(self, bound: Bound, calls: Iterable[tuple[Any, ...]]) -> None:
        """Call all, with the arguments of each call; an error of one is counted and logged, and the next one is
        called."""
        running, thread, hook, now = self._running, threading.get_ident(), bound.hook, time.monotonic
        before = running.get(thread)
        try:
            for arguments in calls:
                for plugin, function in bound:
                    running[thread] = (plugin, hook, now())
                    try:
                        function(*arguments)
                    except errors.SoftTimeLimitExceeded:
                        raise  # meant for the task that this thread serves, wherever it was at that moment
                    except Exception as exc:
                        self._count(plugin, hook, exc)
        finally:
            _restore(running, thread, before)

    def first(self, hook: str, bound: Bound, arguments: tuple[Any, ...]) -> tuple[str, Any]:
        """Call one after the other until one answers; its name and answer, or `("", None)`. An error propagates."""
        running, thread = self._running, threading.get_ident()
        before = running.get(thread)
        plugin = ""
        try:
            for plugin, function in bound:
                running[thread] = (plugin, hook, time.monotonic())
                answer = function(*arguments)
                if answer is not None:
                    return plugin, answer
        except Exception as exc:
            _name(exc, plugin, hook)
            raise
        finally:
            _restore(running, thread, before)
        return "", None

    @contextmanager
    def noted(self, plugin: str, hook: str) -> Iterator[None]:
        """Around one call that is not hot. An error propagates, and says which plugin raised it."""
        running, thread = self._running, threading.get_ident()
        before = running.get(thread)
        running[thread] = (plugin, hook, time.monotonic())
        try:
            yield
        except Exception as exc:
            _name(exc, plugin, hook)
            raise
        finally:
            _restore(running, thread, before)

    @contextmanager
    def starting(self, plugin: str, hook: str) -> Iterator[None]:
        """As `noted`; errors that are not ours become `PluginError`, which the command line tells in a line."""
        try:
            with self.noted(plugin, hook):
                yield
        except errors.KernelError:
            raise
        except Exception as exc:
            raise errors.PluginError(f"plugin {plugin!r} failed in {hook}: {type(exc).__name__}: {exc}") from exc

    def isolated(self, plugin: str, hook: str, call: Callable[[], Any]) -> None:
        """One call of an observing hook that is not hot."""
        try:
            with self.noted(plugin, hook):
                call()
        except errors.SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            self._count(plugin, hook, exc)

    def _count(self, plugin: str, hook: str, error: Exception) -> None:
        key = (plugin, hook)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        now = time.monotonic()
        told = self._told.get(key)
        if told is not None and now - told < _QUIET:
            return
        self._told[key] = now
        times = "" if count == 1 else f" ({count} times so far)"
        _log.error("plugin %r failed in %s%s: %s: %s", plugin, hook, times, type(error).__name__, error, exc_info=error)


def _name(error: Exception, plugin: str, hook: str) -> None:
    error.add_note(f"raised by the plugin {plugin!r} in {hook}")


def _restore(running: dict[int, Running], thread: int, before: Running | None) -> None:
    """A hook may have been called from within a hook of the same thread."""
    if before is None:
        running.pop(thread, None)
    else:
        running[thread] = before
