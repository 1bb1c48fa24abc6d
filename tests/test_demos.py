"""The demos are short, and their notebooks are stored as they ran: in order, whole, with pictures, without paths."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

import fv_lens

DEMOS = Path(__file__).parent.parent / "demos"
NOTEBOOKS = sorted(DEMOS.glob("*.ipynb"))
SCRIPTS = sorted(file for file in DEMOS.glob("*.py") if file.name != "run.py")
A_PATH = re.compile(r"(?<![\w.:/])(?:/(?:home|root|tmp|usr|opt|work|mnt|Users|private)/|[A-Z]:\\)")


def code_cells(file):
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def source(file):
    """The Python of a demo."""
    text = file.read_text(encoding="utf-8")
    return "\n".join("".join(cell["source"]) for cell in code_cells(file)) if file.suffix == ".ipynb" else text


@pytest.fixture(scope="module")
def run():
    """The module demos/run.py, which needs what the extra `demos` installs."""
    for name in ("nbformat", "nbclient"):
        pytest.importorskip(name, reason="demos/run.py needs the extra 'demos'")
    spec = importlib.util.spec_from_file_location("demos_run", DEMOS / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_four_notebooks_a_lesson_and_three_scripts():
    assert [file.name[0] for file in NOTEBOOKS] == ["1", "2", "3", "4", "l"]
    assert [file.stem for file in SCRIPTS] == ["head_heatmap", "patch_in_a_script", "your_own_model"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_a_script_is_short(file):
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    compile(source, file.name, "exec")


@pytest.mark.parametrize("file", [*NOTEBOOKS, *SCRIPTS], ids=lambda file: file.stem)
def test_what_a_demo_takes_from_fv_lens_is_there(file):
    for node in ast.walk(ast.parse(source(file))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fv_lens":
            home = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(home, name) or importlib.util.find_spec(f"{node.module}.{name}"), name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fv_lens":
            assert node.attr in fv_lens.__all__


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_stored_as_it_ran(file):
    cells = code_cells(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a progress bar or a warning"
    assert [output for output in outputs if "image/png" in output.get("data", {})], "no picture"


@pytest.mark.parametrize("file", [*NOTEBOOKS, *SCRIPTS], ids=lambda file: file.stem)
def test_no_machine_shows(file):
    parts = [file.read_text(encoding="utf-8")]
    if file.suffix == ".ipynb":  # of pictures, letters may read as anything
        parts = [json.dumps([cell["source"] for cell in code_cells(file)])]
        for output in (output for cell in code_cells(file) for output in cell["outputs"]):
            data = {kind: of for kind, of in output.get("data", {}).items() if kind != "image/png"}
            parts.append(json.dumps([output.get("text", ""), data]))
    assert not [found for part in parts for found in A_PATH.findall(part)]


def test_exercises_run_with_the_solutions_below_them(run):
    texts = {
        "exercise": "def f():\n    raise NotImplementedError",
        "solution": "<p>\n\n```python\ndef f():\n    pass\n```",
    }
    cells = [
        run.nbformat.from_dict({"metadata": {"tags": [kind, name]}, "source": text.replace("f()", f"{name}()")})
        for name in ("f", "g") for kind, text in texts.items()
    ]  # fmt: skip
    run.solve([run.nbformat.from_dict({"metadata": {}, "source": "1"}), *cells])
    assert [cell.source for cell in cells[::2]] == ["def f():\n    pass", "def g():\n    pass"]


def test_what_was_made_with_ratings_says_so():
    cells = [cell for file in NOTEBOOKS for cell in code_cells(file) if "people" in cell["metadata"].get("tags", [])]
    assert cells and all("if folder:" in "".join(cell["source"]) for cell in cells)
    assert "Made with the ratings" in "".join(cells[0]["outputs"][0]["text"])


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_valid(run, file):
    assert run.nbformat.validator.isvalid(run.nbformat.read(file, as_version=4))


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ("gain +0.64 [0.48, 0.76]  shown\n", "gain +0.65 [0.48, 0.75] shown", True),
        ("norm 266", "norm 267", True),  # large numbers by their share
        ("0.64 shown", "0.64 not shown", False),
        ("gain +0.64", "gain +0.54", False),
        ("gain +0.64", "gain -0.64", False),
        ("1 of 2", "1 of", False),
        ("0.00 [0.00, 0.06]", "0.00 (no interval)", False),
    ],
)
def test_a_text_is_the_same_where_words_are_and_numbers_are_near(run, stored, fresh, same):
    assert run.same(stored, fresh) == same
    assert bool(run.differences(stored, fresh, "cell 1")) != same


def test_a_difference_names_the_cell_and_shows_both_lines(run):
    found = run.differences("a\n1.0", "a\n2.0", "x.ipynb, cell 3")
    assert "x.ipynb, cell 3" in found and "-1.0" in found and "+2.0" in found
