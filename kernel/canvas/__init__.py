"""Signatures of several calls: one after another, side by side, over a list."""

from __future__ import annotations

from kernel.canvas.chains import chain
from kernel.canvas.chord import chord
from kernel.canvas.groups import group
from kernel.canvas.maps import chunks, xmap, xstarmap
from kernel.canvas.stamping import StampingVisitor
from kernel.signature import Signature, maybe_signature, signature

subtask = signature
maybe_subtask = maybe_signature

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
