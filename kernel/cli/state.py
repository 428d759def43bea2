"""What the options before (or after) a command say, and the app that follows from them. It is `click`'s ``obj``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernel.errors import ImproperlyConfigured
from kernel.finding import NO_APP, app_path, find_app

if TYPE_CHECKING:
    from kernel.app import Kernel


@dataclass(slots=True)
class State:
    """`flags` are settings given as options, by name. `preset` is the app of `app.start()`."""

    path: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False
    color: bool | None = None
    traceback: bool = False
    preset: Kernel | None = None
    _app: Kernel | None = None

    def use_config(self, module: str) -> None:
        """``--config``: read by every app of this process and its children that has no settings of its own."""
        from kernel.config import sources as config_sources

        os.environ[config_sources.CONFIG_MODULE_VARIABLES[0]] = module

    def app_path(self) -> str | None:
        """What names the app, from ``-A``, the environment or the project; None when nothing does."""
        return app_path(self.path)

    def app(self) -> Kernel:
        """The app, with the flags applied. Without a name for one, but with a broker, an app that has no tasks.

        Raises `AppNotFound`, or `ImproperlyConfigured` when nothing says which app is meant.
        """
        if self._app is None:
            app = self.named_app() or self._anonymous()
            if app is None:
                raise ImproperlyConfigured(NO_APP)
            if self.flags:
                app.conf.override(self.flags)
            self._app = app
        return self._app

    @contextmanager
    def opened(self) -> Iterator[Kernel]:
        """The app, closed at the end."""
        app = self.app()
        try:
            yield app
        finally:
            app.close()

    def named_app(self) -> Kernel | None:
        """The app that is named somewhere, without the flags. Raises `AppNotFound`."""
        if self.path is None and self.preset is not None:
            return self.preset
        path = self.app_path()
        return find_app(path) if path else None

    def _anonymous(self) -> Kernel | None:
        from kernel.config import Settings

        if "broker_url" not in self.flags and not Settings().broker_url:
            return None
        from kernel.app import Kernel

        return Kernel("kernel")
