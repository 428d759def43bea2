"""The end of a task that was replaced: what takes its place is published as its successor.

The replacement has the task's own id, so there is no record yet that would say how the task ended. In its place
stands a record under an id derived from the task's, which holds the messages: a redelivery that finds it publishes
them again and does not run the body. Where results are ignored it is not kept, as with any other end.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import drivers, failure, states
from kernel.interfaces.backend import BackendCapabilities, Record
from kernel.interfaces.broker import Verdict
from kernel.message import Message, Publication
from kernel.naming import derive_id
from kernel.signature import Lineage, Signature
from kernel.worker.assignment import Ending

if TYPE_CHECKING:
    from kernel.worker.running.life import Life

_log: Final = logging.getLogger("kernel.worker")

_FIELDS: Final = ("queue", "priority", "due", "expires", "exchange", "routing_key", "persistent")


def record_id(life: Life) -> str:
    """The id of the record that says that this run was replaced: of this one, and not of one of the same id that takes
    its place, or that comes back from the dead letters."""
    request = life.request
    return derive_id(life.id, f"replaced:{request.attempt}", request.replaced_task_nesting)


def parts(life: Life, signature: Signature[Any]) -> tuple[Sequence[Record], Sequence[Publication]]:
    """What is to be recorded and published. Raises what `prepare` raises."""
    request = life.request
    lineage = Lineage(
        root_id=request.root_id or life.id,
        parent_id=request.parent_id,
        reply_to=request.reply_to or None,
        redelivered=life.again,
    )
    calls = signature.calls((), {}, {}, lineage=lineage)
    publications = [life.app.publisher.prepare(call) for call in calls]
    if not _is_kept(life):
        return (), publications
    document = {"replaced_by": [_as_data(publication) for publication in publications]}
    data, content_type, encoding = life.app.codecs.encode_result(document)
    record = Record(
        id=record_id(life),
        state=states.SUCCESS,
        result=data,
        content_type=content_type,
        content_encoding=encoding,
        date_done=time.time(),
    )
    return (record,), publications


def resume(life: Life, standing: Record) -> Ending:
    """The ending of a task that was replaced before: the same messages, marked as repeated. Kept as a dead letter where
    nobody can tell what they were: they may have been lost."""
    try:
        document = life.app.codecs.decode_result(standing.result, standing.content_type, standing.content_encoding)
        publications = [_of_data(item) for item in document["replaced_by"]]
    except Exception as exc:
        _log.exception("task %s[%s] was replaced before, and by what cannot be read", life.name, life.id)
        reason = f"it was replaced before, and by what cannot be read: {failure.one_line(exc)}"
        return Ending(life.assignment.seq, Verdict.DEAD, reason=reason[:2000], task=life.name)
    return Ending(life.assignment.seq, Verdict.ACK, publications=publications, task=life.name)


def _is_kept(life: Life) -> bool:
    url = life.app.backend_url
    if url is None or not (life.has_backend and life.keeps_results):
        return False
    # With results that go to who called, there is no place where it could be looked for. The backend is not opened for
    # this: it may be away, which is no fault of the task's.
    capabilities: BackendCapabilities = drivers.load("backends", url, choices=life.app.conf.drivers).capabilities
    return not capabilities.to_caller


def _as_data(publication: Publication) -> dict[str, Any]:
    message = publication.message
    return {
        "headers": message.raw_headers.decode("utf-8", "surrogatepass"),
        "properties": message.raw_properties.decode("utf-8", "surrogatepass"),
        "body": base64.b64encode(message.body).decode("ascii"),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        **{name: getattr(publication, name) for name in _FIELDS},
    }


def _of_data(data: Mapping[str, Any]) -> Publication:
    message = Message(
        {**json.loads(data["headers"]), "redelivered": True},
        base64.b64decode(data["body"]),
        content_type=data["content_type"],
        content_encoding=data["content_encoding"],
        properties=data["properties"],
    )
    return Publication(message, **{name: data[name] for name in _FIELDS})
