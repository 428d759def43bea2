"""Documents and back: the quick reading of usual ones, and the reading of all others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_backend_redis import documents

from kernel.interfaces.backend import Record

TEXT = st.text(max_size=8) | st.sampled_from(['"', "\\", "\x00\n", ', "traceback": null', "é\u2028", "[]}"])
VALUES = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    value=VALUES,
    state=st.sampled_from(["SUCCESS", "FAILURE", "PROGRESS"]),
    children=st.sampled_from([None, "[]", '[[["b", null], null]]']),
    texts=st.tuples(TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT),
    attempt=st.integers(0, 3),
    done=st.booleans(),
)
def test_what_was_stored_is_read(
    value: Any, state: str, children: str | None, texts: Any, attempt: int, done: bool
) -> None:
    task_id, group_id, parent_id, traceback, worker = texts
    record = Record(
        id=task_id,
        state=state,
        result=json.dumps(value).encode(),
        traceback=traceback,
        children=children,
        date_done=1_795_226_257.5 if done and state != "PROGRESS" else None,
        group_id=group_id,
        parent_id=parent_id,
        attempt=attempt,
        worker=worker,
    )
    assert documents.decode(task_id, documents.encode(record)) == record


USUAL = '"traceback": null, "children": null, "date_done": "2026-11-21T01:57:37", "task_id": "a"'


@pytest.mark.parametrize(
    "behind",
    [
        f'1, "more": 2, {USUAL}}}',
        f'{{"x": 1, {USUAL}}}}}',
        f'1, {USUAL}, "parent_id": "p"}}',
    ],
)
def test_what_only_looks_usual_is_read_as_any_other(behind: str) -> None:
    document = f'{{"status": "SUCCESS", "result": {behind}'
    found, whole = documents.decode("a", document.encode()), json.loads(document)
    assert found is not None
    assert json.loads(found.result) == whole["result"]
    assert found.parent_id == whole.get("parent_id")


@pytest.mark.parametrize(
    "behind",
    [
        f"1, 2, {USUAL}}}",
        f"1, {USUAL}}}}}",
        f"1, {USUAL}}} ,",
        f"1, {USUAL}}}".replace("2026", "soon"),
        f"1, {USUAL}}}".replace("2026", "2026\n"),
    ],
)
def test_what_is_no_document_is_none(behind: str) -> None:
    assert documents.decode("a", f'{{"status": "SUCCESS", "result": {behind}'.encode()) is None
