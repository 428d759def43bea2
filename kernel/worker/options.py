"""What a worker is started with, in a form that travels to its processes as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class LogOptions:
    """How the worker logs. `file` None is standard error; `json` gives one JSON object a line."""

    level: str = "WARNING"
    file: str | None = None
    json: bool = False
    color: bool | None = None


@dataclass(slots=True)
class WorkerOptions:
    """The command line of a worker, or its twin in code. None leaves a setting as it is.

    `processes` is how many children host the pool; 0 hosts it in the worker's own process.
    """

    app: str = ""
    hostname: str = ""
    queues: Sequence[str] = ()
    exclude_queues: Sequence[str] = ()
    pool: str | None = None
    concurrency: int | None = None
    processes: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    log: LogOptions = field(default_factory=LogOptions)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> WorkerOptions:
        values = json.loads(text)
        values["log"] = LogOptions(**values["log"])
        return cls(**values)
