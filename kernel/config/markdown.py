"""The tables of docs/configuration.md, made from the declarations so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kernel.config import catalogue as config_catalogue
from kernel.config import unserved as config_unserved
from kernel.config.names import ALIASES
from kernel.config.values import as_text
from kernel.interfaces.setting import Setting

BEGIN: Final = "<!-- tables: made by `kernel config --markdown` -->"
END: Final = "<!-- end of tables -->"

_SECTIONS: Final[Sequence[tuple[str, tuple[Setting, ...]]]] = (
    ("Plugins and drivers", config_catalogue.PLUGINS),
    ("General", config_catalogue.GENERAL),
    ("Tasks", config_catalogue.TASKS),
    ("Results", config_catalogue.RESULTS),
    ("Database", config_catalogue.DATABASE),
    ("Redis result backend", config_catalogue.REDIS),
    ("Broker", config_catalogue.BROKER),
    ("Worker", config_catalogue.WORKER),
)


def markdown() -> str:
    """The part of docs/configuration.md between `BEGIN` and `END`, these included."""
    parts = [BEGIN, ""]
    for heading, settings in _SECTIONS:
        parts += [f"### {heading}", "", *_table(settings), ""]
    parts += ["### Known and not served yet", ""]
    parts += ["| setting | default | what it is for |", "|---|---|---|"]
    for setting in sorted(config_unserved.UNSERVED, key=lambda item: item.name):
        parts.append(f"| `{setting.name}` | {_default(setting)} | {_cell(setting.doc)} |")
    return "\n".join([*parts, "", END])


def _table(settings: Iterable[Setting]) -> Iterable[str]:
    other = {today: alias for alias, today in ALIASES.items()}
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    for setting in settings:
        doc = setting.doc
        if setting.name in other:
            doc += f" Also called `{other[setting.name]}`."
        yield f"| `{setting.name}` | {_type(setting)} | {_default(setting)} | {_cell(doc)} |"


def _type(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    return setting.kind + (" or None" if setting.optional else "")


def _default(setting: Setting) -> str:
    text = as_text(setting.default)
    return f"`{_cell(text)}`" if text else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
