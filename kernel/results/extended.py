"""What a record says of its call, besides what became of it, where the setting `result_extended` is on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kernel import errors

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Record
    from kernel.request import Request


def extend(record: Record, request: Request, app: Kernel) -> None:
    """Fill what `record`, of any state, says of the call that `request` is."""
    if not app.conf.result_extended:
        return
    record.name = request.task
    record.args = _encoded_or_text(app, list(request.args), request.argsrepr)
    record.kwargs = _encoded_or_text(app, dict(request.kwargs), request.kwargsrepr)
    record.worker = request.hostname
    record.retries = request.retries
    record.queue = request.queue or None
    if request.stamped_headers or request.stamps:
        stamps = {"stamped_headers": request.stamped_headers, "stamps": request.stamps}
        record.stamps = json.dumps(stamps, default=str)


def _encoded_or_text(app: Kernel, value: Any, text: str | None) -> bytes:
    """Arguments may have come by a serializer that knows more types than that of the results."""
    try:
        return app.codecs.encode_result(value)[0]
    except errors.EncodeError:
        return app.codecs.encode_result(text)[0]
