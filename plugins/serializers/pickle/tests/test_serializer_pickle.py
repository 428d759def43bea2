from __future__ import annotations

from kernel_serializer_pickle import PickleSerializer

from kernel.testing.conformance.serializer import SerializerConformance


class TestPickleSerializer(SerializerConformance):
    serializer = PickleSerializer
