"""Exchanges and queues of both apps, made of the classes of each."""

from __future__ import annotations

from typing import Any


def settings(side: str, queue: Any, exchange: Any, broadcast: Any) -> dict[str, Any]:
    """Two queues of `side` at a topic exchange that both sides have, and a broadcast that both hear."""
    mail = exchange("mail", type="topic")
    return {
        "task_queues": [
            queue(f"{side}-eu", mail, routing_key="mail.eu.#"),
            queue(f"{side}-all", mail, routing_key="mail.#"),
            broadcast("news", routing_key="news"),
        ]
    }
