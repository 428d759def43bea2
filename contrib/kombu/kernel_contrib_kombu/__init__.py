"""Serializers and compressors that a program registered in kombu, by their names, for kernel.

kombu itself is imported when a codec is asked for that no driver has, and not before.
"""

from __future__ import annotations

from typing import Final

from kernel_contrib_kombu.codecs import KombuCodecs

__all__ = ["KombuCodecs", "plugin"]

plugin: Final = KombuCodecs()
