"""Fill the exercises of the lesson from its solutions: python demos/pages/lesson.py

`demos/lesson/solutions.py` holds each function once. In the notebook a cell with the tags "exercise" and NAME has its
signature and docstring, one with "solution" and NAME its whole text, folded, and one with "given" and NAME its whole
text to run.
"""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEMOS = Path(__file__).parents[1]
NOTEBOOK, SOLUTIONS = DEMOS / "lesson.ipynb", DEMOS / "lesson" / "solutions.py"


def exercise(source: str) -> str:
    """The signature and the docstring of a function, whose code is to be written."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    lines = source.splitlines()[: function.body[0].end_lineno]
    return "\n".join([*lines, "    raise NotImplementedError"])


def solution(source: str) -> str:
    """The function as folded Markdown."""
    return f"<details>\n<summary>Solution</summary>\n\n```python\n{source}\n```\n\n</details>"


def given(source: str) -> str:
    """The function as it is."""
    return source


KINDS: dict[str, Callable[[str], str]] = {"exercise": exercise, "solution": solution, "given": given}


def sources() -> dict[str, str]:
    """The text of each function of the solutions, by its name."""
    text = SOLUTIONS.read_text(encoding="utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_source_segment(text, function) or "" for function in functions}


def filled(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the tagged cells filled."""
    functions, cells = sources(), []
    for cell in notebook["cells"]:
        kind, *names = cell["metadata"].get("tags") or [""]
        if kind in KINDS:
            cell = cell | {"source": KINDS[kind](functions[names[0]]).splitlines(keepends=True)}
        cells.append(cell)
    return notebook | {"cells": cells}


def written(notebook: dict[str, Any]) -> str:
    """The text of a notebook's file, in the form of nbformat."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(written(filled(stored)), encoding="utf-8")
