"""`DisabledBackend`: what an app has in place of a result backend when none is configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from kernel.interfaces.backend import (
    INTERFACE,
    WON,
    BackendCapabilities,
    BackendConfig,
    ChordPart,
    ChordState,
    Record,
    StoreOutcome,
    Watch,
)
from kernel.interfaces.setting import Setting

_NO_BACKEND = BackendConfig(url="disabled://")


class DisabledBackend:
    """Takes results and forgets them; whoever asks for one gets `NotImplementedError` with what to do."""

    interface = INTERFACE
    capabilities = BackendCapabilities(durable=False, groups=False, chords=False, push=False, every_state=False)
    settings: tuple[Setting, ...] = ()

    def __init__(self, config: BackendConfig = _NO_BACKEND) -> None:
        self._config = config

    @property
    def transaction_domain(self) -> str | None:
        return None

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def store(self, batch: Sequence[Record]) -> Sequence[StoreOutcome]:
        return [WON] * len(batch)

    def load(self, ids: Sequence[str]) -> Sequence[Record | None]:
        _refuse()

    def watch(self, ids: Sequence[str] = ()) -> Watch:
        _refuse()

    def forget(self, ids: Sequence[str]) -> None:
        _refuse()

    def save_group(self, group_id: str, document: str) -> None:
        _refuse()

    def load_group(self, group_id: str) -> str | None:
        _refuse()

    def forget_group(self, group_id: str) -> None:
        _refuse()

    def chord_parts(self, batch: Sequence[ChordPart]) -> Sequence[ChordState]:
        _refuse()

    def begin_body(self, chord_id: str, copy: str, *, number: int | None = None) -> bool:
        _refuse()

    def cleanup(self) -> int:
        return 0


def _refuse() -> NoReturn:
    raise NotImplementedError(
        "No result backend is configured. Results are not kept: set result_backend (or Kernel(backend=...)) to a URL "
        "such as 'sqlite:///results.db', in the worker as well"
    )
