"""YAML for kernel: messages that people read and write, loaded safely."""

from __future__ import annotations

from kernel_serializer_yaml.serializer import YamlSerializer

__all__ = ["YamlSerializer"]
