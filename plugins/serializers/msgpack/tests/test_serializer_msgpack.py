from __future__ import annotations

from kernel_serializer_msgpack import MsgpackSerializer

from kernel.testing.conformance.serializer import SerializerConformance


class TestMsgpackSerializer(SerializerConformance):
    serializer = MsgpackSerializer
