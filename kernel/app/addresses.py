"""`Addresses`: where an app's broker and backend are, and what their drivers are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kernel import drivers
from kernel.app.embedded import embedded_path, url_of
from kernel.config import mask_url
from kernel.interfaces.broker_config import BrokerConfig

if TYPE_CHECKING:
    from pathlib import Path

    from kernel.config import Settings
    from kernel.interfaces.backend import BackendConfig

_NO_RESULTS: Final = frozenset({"disabled", "disabled://"})


class Addresses:
    """Reads the settings at each call: until the drivers are open, they may change.

    `name` is the app's, and `file` the one whose code made it.
    """

    def __init__(self, conf: Settings, *, name: str | None, file: str | None) -> None:
        self._conf = conf
        self._name = name
        self._file = file

    @property
    def embedded(self) -> Path | None:
        """The file of the embedded default, where it is in use."""
        conf = self._conf
        if conf.broker_url is not None:
            return None
        return embedded_path(name=self._name, file=self._file, data=conf.data)

    def broker_url(self, *, read: bool = False) -> str:
        """Where messages are published to; with `read`, where workers take them from. Several are joined by ``;``."""
        conf = self._conf
        url = (conf.broker_read_url if read else conf.broker_write_url) or conf.broker_url
        if url is not None:
            return _one_text(url)
        path = self.embedded
        assert path is not None, "without a broker_url the embedded default is in use"
        return url_of(path)

    @property
    def backend_url(self) -> str | None:
        """Where results are; None when none are kept, which is so with a broker alone."""
        url = self._conf.result_backend
        if url is None:
            path = self.embedded
            return None if path is None else url_of(path)
        url = _one_text(url)
        return None if url in _NO_RESULTS else url

    def broker_config(self, *, read: bool = False) -> BrokerConfig:
        """Raises `DriverError`, `UnknownSetting` and `InvalidSetting`."""
        conf = self._conf
        url = self.broker_url(read=read)
        driver = drivers.load("brokers", url, choices=conf.drivers)
        conf.declare(driver.settings, f"the broker {url.partition(':')[0]}")
        return BrokerConfig(
            url=url,
            options=conf.broker_transport_options,
            settings=conf.driver_values(driver.settings),
            timeout=conf.broker_connection_timeout,
            app_name=self._name or "kernel",
        )

    def backend_config(self) -> BackendConfig | None:
        """None when no results are kept. Raises as `broker_config` does."""
        url = self.backend_url
        if url is None:
            return None
        from kernel.interfaces.backend import BackendConfig  # what a program that only defines tasks does not need

        conf = self._conf
        driver = drivers.load("backends", url, choices=conf.drivers)
        conf.declare(driver.settings, f"the result backend {url.partition(':')[0]}")
        # One without a place of its own lives on the broker's.
        broker = self.broker_config() if driver.capabilities.to_caller else None
        return BackendConfig(
            url=url,
            options=conf.result_backend_transport_options,
            settings=conf.driver_values(driver.settings),
            expires=conf.result_expires or None,
            chord_expires=conf.result_chord_expires or None,
            failure_expires=conf.result_failure_expires or None,
            timeout=conf.broker_connection_timeout,
            app_name=self._name or "kernel",
            broker=broker,
        )

    @property
    def broker_shown(self) -> str:
        """The broker as it may be shown to anyone: no password, and the file of the embedded default as a path."""
        conf = self._conf
        url = conf.broker_write_url or conf.broker_url
        return str(self.embedded) if url is None else mask_url(_one_text(url))


def _one_text(url: str | Sequence[str]) -> str:
    return url if isinstance(url, str) else ";".join(url)
