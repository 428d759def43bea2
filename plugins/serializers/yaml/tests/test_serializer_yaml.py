from __future__ import annotations

from kernel_serializer_yaml import YamlSerializer

from kernel.testing.conformance.serializer import SerializerConformance


class TestYamlSerializer(SerializerConformance):
    serializer = YamlSerializer
