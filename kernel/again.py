"""The next run of a task that asked for one with ``retry(throw=False)`` and then ended in some other way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from kernel.signature import Signature

if TYPE_CHECKING:
    from kernel import errors
    from kernel.app import Kernel
    from kernel.request import Request

# The next run has the lineage and the links of this one, whatever was said.
_KEPT: Final = frozenset(
    {"task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error"}
    | {"retries", "origin"}
)


def publish_next(app: Kernel, request: Request, retry: errors.Retry, *, delay: float) -> None:
    """Publish the next run of `request`, due `delay` seconds from now; it is stored when this returns.

    Raises what publishing raises.
    """
    message, signature = request.message, retry.sig
    assert message is not None, "a worker runs messages"
    given = signature.options if isinstance(signature, Signature) else {}
    rewritten = isinstance(signature, Signature) and signature.rewrites
    publication = app.publisher.prepare_retry(
        message,
        queue=request.queue,
        retries=request.retries + 1,
        due=time.time() + delay if delay else None,
        args=signature.args if rewritten else None,
        kwargs=signature.kwargs if rewritten else None,
        options={name: value for name, value in given.items() if name not in _KEPT},
    )
    app.publisher.send((publication,))
