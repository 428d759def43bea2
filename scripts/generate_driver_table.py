"""Write `kernel/drivers/table.py`: which distribution and which extra bring each driver of this project.

    python scripts/generate_driver_table.py           # write it
    python scripts/generate_driver_table.py --check   # exit 1 when it is stale

Read from the entry points of the workspace and the extras of `kernel`, so that the line "pip install ..." of an
error cannot rot. `PLANNED` is the part kept by hand: names that people ask for and that are not in this tree yet.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workspace import ROOT, Distribution, distributions

TABLE = ROOT / "kernel" / "drivers" / "table.py"
KINDS = ("brokers", "backends", "serializers", "compressors", "pools", "schedulers")

# kind -> name -> (distribution, extra). An entry leaves when its distribution comes.
PLANNED: dict[str, dict[str, tuple[str, str]]] = {
    "pools": {
        "eventlet": ("kernel-pool-eventlet", "eventlet"),
        "gevent": ("kernel-pool-gevent", "gevent"),
    },
}
# A name whose extra does not follow from the rule below: the server needs a library that the plain extra lacks.
EXTRA_OF = {"mariadb": "mysql", "rpc": "amqp"}

HEAD = '''"""Which distribution and extra bring the drivers of this project. Generated: do not edit.

`python scripts/generate_driver_table.py` writes it from the workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DRIVERS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
'''


def extra_for(name: str, distribution: str, kernel: Distribution) -> str:
    """The extra to name for a driver: its own name if there is such an extra, else the distribution's."""
    holding = {
        extra for extra, lines in kernel.extras.items() if any(line.startswith(f"{distribution}>") for line in lines)
    }
    for candidate in (EXTRA_OF.get(name, ""), name, distribution.split("-", 2)[2]):
        if candidate in holding:
            return candidate
    raise SystemExit(f"no extra of kernel brings {distribution}; add one to pyproject.toml")


def table() -> dict[str, dict[str, tuple[str, str]]]:
    """Every kind with its names, sorted."""
    kernel, *members = distributions()
    found: dict[str, dict[str, tuple[str, str]]] = {kind: {} for kind in KINDS}
    for member in members:
        for kind in KINDS:
            for name in member.entry_points.get(f"kernel.{kind}", {}):
                found[kind][name] = (member.name, extra_for(name, member.name, kernel))
    for kind, planned in PLANNED.items():
        come = sorted(set(planned) & set(found[kind]))
        if come:
            raise SystemExit(f"{kind} {', '.join(come)} exist now: remove them from PLANNED in {Path(__file__).name}")
        found[kind].update(planned)
    return {kind: dict(sorted(names.items())) for kind, names in found.items()}


def text() -> str:
    lines = [HEAD]
    for kind, names in table().items():
        if not names:
            lines.append(f'    "{kind}": {{}},\n')
            continue
        lines.append(f'    "{kind}": {{\n')
        lines += [f'        "{name}": ("{dist}", "{extra}"),\n' for name, (dist, extra) in names.items()]
        lines.append("    },\n")
    return "".join([*lines, "}\n"])


def main(arguments: list[str]) -> int:
    wanted = text()
    if arguments == ["--check"]:
        fresh = TABLE.exists() and TABLE.read_text(encoding="utf-8") == wanted
        if not fresh:
            print(f"{TABLE.relative_to(ROOT)} is stale; run: python scripts/generate_driver_table.py")
        return 0 if fresh else 1
    TABLE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
