"""Runs one canvas on Celery for one run. Run with the peers' Python; it prints a JSON object."""

from __future__ import annotations

import json
import sys

import canvases
import celery
import wire_celery


def main(verb: str, count: int, warming: int) -> dict[str, float]:
    tasks = wire_celery.app.tasks
    canvases.warm(tasks, count, warming)
    return {"seconds": canvases.run(celery, tasks, verb, count)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
