"""The app of the workers that are processes of their own: ``kernel -A worker_app worker``, in this folder."""

from __future__ import annotations

import os

from kernel import Kernel
from kernel.errors import Ignore, Reject
from tests.canvas.shop import Ledger, fill


def make(broker: str, backend: str, ledger: Ledger) -> Kernel:
    app = Kernel("shop", broker=broker, backend=backend, result_extended=True)
    fill(app, ledger, Ignore, Reject)
    return app


if "SHOP_LEDGER" in os.environ:
    app = make(os.environ["SHOP_BROKER"], os.environ["SHOP_BACKEND"], Ledger(os.environ["SHOP_LEDGER"]))
