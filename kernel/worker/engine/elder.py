"""Messages of protocol 1, as Celery 3 and many clients in other languages send them: all of a call is in the body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from kernel import errors
from kernel.message import Message

_MAX_BYTES: Final = 1 << 20
"""The engine reads these bodies, which it does with no others."""
_COPIED: Final = ("task", "id", "retries", "timelimit", "group_index")
_EMBEDDED: Final = ("callbacks", "errbacks", "chord")


def renewed(message: Message) -> Message | None:
    """A message of protocol 1 as one of protocol 2; None if it is no such message.

    Read are uncompressed bodies of JSON, up to one MiB. Raises `InvalidTaskError` for one that cannot be read.
    """
    headers = message.headers
    if "task" in headers or "compression" in headers or message.content_type != "application/json":
        return None
    if len(message.body) > _MAX_BYTES or message.body[:1] != b"{":
        return None
    try:
        call = json.loads(message.body)
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidTaskError(f"no header 'task', and a body that is not JSON: {exc}") from exc
    if not isinstance(call.get("task"), str) or not isinstance(call.get("id"), str):
        return None
    args, kwargs = call.get("args") or [], call.get("kwargs") or {}
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise errors.InvalidTaskError("args and kwargs of a message of protocol 1 are no list and no object")
    embed = {"chain": None, **{name: call.get(name) for name in _EMBEDDED}}
    try:
        body = json.dumps([args, kwargs, embed], separators=(",", ":")).encode()
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidTaskError(f"a message of protocol 1 that has no form in protocol 2: {exc}") from exc
    found = message.replace_headers(**_headers(call))
    found.body = body
    return found


def _headers(call: Mapping[str, Any]) -> dict[str, Any]:
    utc = call.get("utc", True)
    found = {name: call[name] for name in _COPIED if call.get(name) is not None}
    found.update({name: _moment(call[name], utc) for name in ("eta", "expires") if call.get(name) is not None})
    group = call.get("group") or call.get("taskset")
    return {"lang": "py", "root_id": call["id"], "parent_id": None, "group": group, **found}


def _moment(value: object, utc: object) -> object:
    """A time without a zone is meant in UTC where the message says so; anything else is judged by whoever reads it."""
    if not utc or not isinstance(value, str):
        return value
    try:
        return value if datetime.fromisoformat(value).tzinfo else f"{value}+00:00"
    except ValueError:
        return value
