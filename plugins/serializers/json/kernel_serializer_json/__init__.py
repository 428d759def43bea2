"""The standard serializer of kernel: JSON with the type envelopes that Celery's peers write and read."""

from __future__ import annotations

from kernel_serializer_json.serializer import JsonSerializer
from kernel_serializer_json.types import JsonType

__all__ = ["JsonSerializer", "JsonType"]
