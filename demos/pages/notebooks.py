"""Write what notebooks have from elsewhere, the repository's address and solutions: python demos/pages/notebooks.py

The address stands in pyproject.toml, [project.urls] Repository, and nowhere else by hand. From it each notebook of
demos/ gets its badge and its first cell of code, which installs fv_lens in Colab and does nothing elsewhere, and the
README gets its list of notebooks.

The functions of the lesson stand in `demos/lesson/solutions.py`. In `demos/lesson.ipynb` a cell with the tags
"exercise" and NAME has the signature and docstring of one, with "solution" and NAME its code, folded, and with
"given" and NAME its whole text to run.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEMOS, README = ROOT / "demos", ROOT / "README.md"
SOLUTIONS = DEMOS / "lesson" / "solutions.py"
BRANCH = "main"
TITLES = {
    "lesson": "a lesson in six exercises",
    "1_patch_a_relation": "patch a relation",
    "2_find_the_heads": "find the heads",
    "3_fine_tune_and_decode": "fine-tune and decode",
    "4_analogies_and_people": "analogies and people",
}
START, END = "<!-- notebooks -->", "<!-- end of notebooks -->"
BADGE, INSTALL = "badge", "install"  # the ids of the two cells
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"


def address() -> str:
    """The repository's address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def badge(name: str, url: str) -> str:
    """The badge that opens a notebook in Colab."""
    path = re.sub(r"^https://github\.com/", "", url)
    link = f"https://colab.research.google.com/github/{path}/blob/{BRANCH}/demos/{name}.ipynb"
    return f"[![Open in Colab]({PICTURE})]({link})"


def install(url: str) -> str:
    """The code that brings the repository into Colab, installs it and goes to its demos."""
    # Without constraints.txt, which would replace Colab's torch, numpy and pandas under a running kernel: Colab's own
    # torchvision needs that very torch, and its google-colab that very pandas.
    return f"""# @title In Colab this cell installs fv_lens; elsewhere it does nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    if not os.path.exists("/content/fv-lens"):
        subprocess.run(["git", "clone", "--quiet", "--depth=1", "{url}", "/content/fv-lens"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "/content/fv-lens"], check=True)
    os.chdir("/content/fv-lens/demos")"""


def with_badge(notebook: dict[str, Any], name: str, url: str) -> dict[str, Any]:
    """A notebook with its two cells, the numbers of the others counted on."""
    others = [cell for cell in notebook["cells"] if cell.get("id") not in (BADGE, INSTALL)]
    top = {"cell_type": "markdown", "id": BADGE, "metadata": {}, "source": [badge(name, url)]}
    code = {
        "cell_type": "code", "execution_count": 1, "id": INSTALL, "outputs": [],
        "metadata": {"cellView": "form", "jupyter": {"source_hidden": True}},
        "source": install(url).splitlines(keepends=True),
    }  # fmt: skip
    first = next(i for i, cell in enumerate(others) if cell["cell_type"] == "code")
    cells = [top, *others[:first], code, *others[first:]]
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    return notebook | {"cells": cells}


def parts(source: str) -> tuple[list[str], list[str], list[str]]:
    """The lines of a function: its signature, its docstring, its code."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    lines, docstring = source.splitlines(), function.body[0]
    assert docstring.end_lineno is not None  # as in all that was parsed
    start, end = docstring.lineno - 1, docstring.end_lineno
    return lines[:start], lines[start:end], lines[end:]


def exercise(source: str) -> str:
    """The signature and the docstring of a function, whose code is to be written."""
    signature, docstring, _ = parts(source)
    return "\n".join([*signature, *docstring, "    raise NotImplementedError"])


def solution(source: str) -> str:
    """The function without its docstring, as folded Markdown."""
    signature, _, code = parts(source)
    text = "\n".join([*signature, "\n".join(code).lstrip("\n")])
    return f"<details>\n<summary>Solution</summary>\n\n```python\n{text}\n```\n\n</details>"


def given(source: str) -> str:
    """The function as it is."""
    return source


KINDS: dict[str, Callable[[str], str]] = {"exercise": exercise, "solution": solution, "given": given}


def sources() -> dict[str, str]:
    """The text of each function of the solutions, by its name."""
    text = SOLUTIONS.read_text(encoding="utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_source_segment(text, function) or "" for function in functions}


def with_functions(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook with its tagged cells filled."""
    functions, cells = sources(), []
    for cell in notebook["cells"]:
        kind, *names = cell["metadata"].get("tags") or [""]
        if kind in KINDS:
            cell = cell | {"source": KINDS[kind](functions[names[0]]).splitlines(keepends=True)}
        cells.append(cell)
    return notebook | {"cells": cells}


def listed(url: str) -> str:
    """The README's list of notebooks."""
    return "\n".join(f"  - [{title}](demos/{name}.ipynb) {badge(name, url)}" for name, title in TITLES.items())


def with_list(page: str, url: str) -> str:
    """The README with its list."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{listed(url)}{END}{after}"


def written(notebook: dict[str, Any]) -> str:
    """The text of a notebook's file, in the form of nbformat."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def files(url: str) -> dict[Path, str]:
    """The README and every notebook, as they should be."""
    made = {README: with_list(README.read_text(encoding="utf-8"), url)}
    for name in TITLES:
        file = DEMOS / f"{name}.ipynb"
        made[file] = written(with_badge(with_functions(json.loads(file.read_text(encoding="utf-8"))), name, url))
    return made


if __name__ == "__main__":
    for file, text in files(address()).items():
        file.write_text(text, encoding="utf-8")
