"""Run the notebooks and scripts again, each in an empty folder, and compare what notebooks print with what they store.

    python demos/run.py            compares: ends with 1, and the differences, where a text is another
    python demos/run.py --write    stores what the notebooks give, figures as pictures too (needs Chromium)

Names of files, such as `1_patch_a_relation.ipynb`, may follow; all are run without. Numbers may differ by NEAR, and
pictures, progress bars and HTML are not compared. The part on people is run, compared and stored where FV_LENS_RATINGS
is set. Exercises of the lesson run with the solutions that are folded below them, and are stored without.
"""

import copy
import difflib
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
NEAR = 0.025
NUMBER = re.compile(r"([-+]?\d*\.?\d+)")
NOT_STORED = ("application/vnd.jupyter.widget-view+json",)  # progress bars of ipywidgets


def main(arguments: list[str]) -> int:
    """Run the named demos, or all; 1 where one fails or differs."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # the lesson
    write, names = "--write" in arguments, {name for name in arguments if name != "--write"}
    files = [file for file in [*sorted(HERE.glob("*.ipynb")), *sorted(HERE.glob("*.py"))] if file.name != "run.py"]
    if unknown := names - {file.name for file in files}:
        sys.exit(f"no demo is called {', '.join(sorted(unknown))}; there are {', '.join(file.name for file in files)}")
    wrong = []
    for file in [file for file in files if not names or file.name in names]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = notebook(file, folder, write) if file.suffix == ".ipynb" else script(file, folder)
        print(f"{file.name}: {'wrong' if found else 'fine'}, {time.perf_counter() - started:.0f} s", flush=True)
        print(found, end="")
        wrong += [file.name] * bool(found)
    return int(bool(wrong))


def notebook(file: Path, folder: str, write: bool) -> str:
    """The differences of a fresh run, or none where it was to be stored."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype+png" if write else "plotly_mimetype"
    stored = nbformat.read(file, as_version=4)
    fresh = copy.deepcopy(stored)
    solve(fresh.cells)
    resources = {"metadata": {"path": folder}}
    client = NotebookClient(
        fresh, timeout=900, kernel_name="python3", resources=resources, record_timing=False, coalesce_streams=True
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{error}\n"
    pairs = [pair for pair in zip(stored.cells, fresh.cells) if pair[0].cell_type == "code"]
    for before, after in pairs:
        skipped = "people" in before.metadata.get("tags", []) and not os.environ.get("FV_LENS_RATINGS")
        after.outputs = before.outputs if skipped else [output for output in after.outputs if _kept(output)]
        after.source = before.source
    if write:
        fresh.metadata.pop("widgets", None)
        fresh.metadata["language_info"] = {"name": "python"}
        nbformat.write(fresh, file)
        return ""
    return "".join(
        differences(text(before), text(after), f"{file.name}, cell {number}")
        for number, (before, after) in enumerate(pairs, 1)
    )


def solve(cells: list[nbformat.NotebookNode]) -> None:
    """Put into each cell of an exercise the solution that is folded below it."""
    tagged = {tuple(cell.metadata.get("tags", [])): cell for cell in cells}
    for (kind, *name), cell in ((tags, cell) for tags, cell in tagged.items() if tags):
        if kind == "exercise":
            cell.source = tagged["solution", *name].source.split("```python\n")[1].split("\n```")[0]


def script(file: Path, folder: str) -> str:
    """What a script says where it fails."""
    done = subprocess.run([sys.executable, file.resolve()], cwd=folder, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def text(cell: nbformat.NotebookNode) -> str:
    """What a cell prints, and how its results read as plain text."""
    return "\n".join(
        output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


def differences(stored: str, fresh: str, where: str) -> str:
    """A unified diff, or nothing where all words are the same and all numbers near."""
    if same(stored, fresh):
        return ""
    before, after = stored.splitlines(), fresh.splitlines()
    lines = difflib.unified_diff(before, after, f"{where}, stored", f"{where}, now", n=1, lineterm="")
    return "\n".join(lines) + "\n"


def same(stored: str, fresh: str) -> bool:
    """Whether two texts have the same words, and numbers that are near."""
    parts = [NUMBER.split(" ".join(one.split())) for one in (stored, fresh)]
    if len(parts[0]) != len(parts[1]):
        return False
    return all(
        math.isclose(float(a), float(b), abs_tol=NEAR, rel_tol=NEAR) if number % 2 else a.strip() == b.strip()
        for number, (a, b) in enumerate(zip(*parts))
    )


def _kept(output: nbformat.NotebookNode) -> bool:
    bar = output.output_type == "stream" and output.name == "stderr"
    return not bar and not any(kind in output.get("data", {}) for kind in NOT_STORED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
