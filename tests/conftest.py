"""What every test of the kernel gets: an environment without the settings of whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The kernel reads its settings from variables of this prefix; a developer's own must not change what a test sees.
PREFIX = "KERNEL_"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parent.parent
