"""The table of hooks in the documentation is that of the specifications."""

from __future__ import annotations

import generate_hook_table as generator
import pytest

from kernel.hooks import SPECS


def test_the_table_is_what_the_generator_writes() -> None:
    fresh = generator.PAGE.read_text(encoding="utf-8") == generator.text()
    assert fresh, "docs/plugins.md is stale; run: python scripts/generate_hook_table.py"
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_hook_says_its_kind_place_and_moment(name: str) -> None:
    _, hook, kind, where, when, _ = (cell.strip() for cell in generator.row(name).replace("\\|", "").split("|"))
    assert hook.startswith(f"`{name}(")
    assert kind == SPECS[name].kind + (" · hot" if SPECS[name].hot else "")
    assert where in {"anywhere", "client", "engine", "child", "client and child", "scheduler", "CLI"}
    assert len(when) > 8


def test_a_page_without_a_place_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    page = generator.ROOT / "README.md"
    monkeypatch.setattr(generator, "PAGE", page)
    with pytest.raises(SystemExit, match=r"README\.md has lost the lines"):
        generator.text()
