"""Rules on the files themselves: their size, what they may not contain, and links that lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import ROOT, tracked

FILE_LIMIT = 700
FUNCTION_LIMIT = 60
# The life of a task reads top to bottom in one function, and that is worth some lines more.
LONGER = {("kernel/worker/running/execute.py", "execute"): 80}

FILES = tracked()
TEXTS = {".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml", ".sh", ".sql", ".json", ""}
# Written in pieces, so that this file does not hold what it forbids.
HOMES = ("wor" + "k/[a-z]", "hom" + "e/[a-z]", "roo" + "t/", "Use" + "rs/[a-z]")
HOSTS = ("py" + r"pi\.org", "python" + r"hosted\.org", "--(extra-)?" + "index-url")
FORBIDDEN = {
    "a machine's path": re.compile("/(" + "|".join(HOMES) + ")"),
    "an index host": re.compile("|".join(HOSTS)),
    "an unfinished thought": re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b"),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files() -> list[Path]:
    return [path for path in FILES if path.suffix == ".py"]


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(ROOT).parts


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each function with its length in lines, without its docstring: a contract is easily read past."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, length


def test_there_are_files() -> None:
    assert len(python_files()) > 50


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {file: count for file, count in lengths.items() if count > FILE_LIMIT} == {}


def test_no_function_is_longer_than_a_reader_bears() -> None:
    long = []
    for path in python_files():
        if not is_test(path):
            for function, length in functions(ast.parse(path.read_text(encoding="utf-8"))):
                if length > LONGER.get((name(path), function), FUNCTION_LIMIT):
                    long.append(f"{name(path)}: {function} has {length} lines")
    assert long == []


def test_every_module_of_ours_postpones_annotations() -> None:
    missing = []
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        code = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
        if code and not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in code):
            missing.append(name(path))
    assert missing == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what: str) -> None:
    found = []
    for path in FILES:
        if path.suffix in TEXTS:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if FORBIDDEN[what].search(line):
                    found.append(f"{name(path)}:{number}: {line.strip()[:120]}")
    assert found == [], f"{what} in:\n" + "\n".join(found)


def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown page offers, as forges derive them from its headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *#*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def test_links_in_the_documentation_lead_somewhere() -> None:
    broken = []
    for path in FILES:
        if path.suffix == ".md":
            for link in links(path):
                if not re.match(r"[a-z]+:", link):
                    file, _, anchor = link.partition("#")
                    target = (path.parent / file).resolve() if file else path
                    if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                        broken.append(f"{name(path)}: {link}")
    assert broken == []


def test_files_that_every_project_has() -> None:
    for file in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/architecture.md", ".ci/run"):
        assert (ROOT / file).stat().st_size > 0, file
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
