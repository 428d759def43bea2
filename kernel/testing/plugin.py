"""The pytest plugin: the marker ``kernel``.

pytest loads this at start in every project that has the kernel installed, so it imports pytest and nothing else.
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel(**settings): settings of the app that `kernel_app` makes for this test")
