from __future__ import annotations

from kernel_serializer_json import JsonSerializer

from kernel.testing.conformance.serializer import SerializerConformance


class TestJsonSerializer(SerializerConformance):
    serializer = JsonSerializer
