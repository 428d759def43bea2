"""What a broker is built from; a result backend that travels over the broker is built from it, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """What a broker is built from. `options` are `broker_transport_options` and `settings` the values of the
    settings that the driver class declares, by name."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 4.0
    app_name: str = "kernel"
