"""Rules on the tests: each one says what must hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from workspace import ROOT, tracked

WORDS = {"raises", "warns", "deprecated_call", "fail", "check_returncode"}
"""Calls that say what must happen."""

OWN = {"self", "pytest", *(path.stem for path in tracked() if "tests" in path.parts)}
"""Whose functions count as helpers: methods of other objects are what is tested."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def called(node: ast.AST) -> Iterator[str]:
    """Functions that are called by their name, on `self`, or as those of a module of tests."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            if isinstance(function, ast.Name):
                yield function.id
            elif isinstance(function, ast.Attribute) and getattr(function.value, "id", "") in OWN:
                yield function.attr
            if any(word.arg == "check" and getattr(word.value, "value", None) is True for word in call.keywords):
                yield "check_returncode"


def states(function: Function) -> bool:
    """Whether it says itself what must hold."""
    return any(isinstance(node, ast.Assert) for node in ast.walk(function)) or not WORDS.isdisjoint(called(function))


def raises(function: Function) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(function))


def test_every_test_can_fail() -> None:
    functions = [
        (path, node)
        for path in tracked()
        if path.suffix == ".py" and ("tests" in path.parts or "testing" in path.relative_to(ROOT).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    ]
    stating = {node.name for _, node in functions if states(node) or raises(node)}
    more = True
    while more:  # helpers that call such helpers; bounded by their number
        found = {node.name for _, node in functions if not node.name.startswith("test") and stating & {*called(node)}}
        more = not found <= stating
        stating |= found
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, node in functions
        if node.name.startswith("test_") and not states(node) and not stating & {*called(node)}
    ]
    assert len(functions) > 1000
    assert silent == [], "these say nothing that could be untrue"
