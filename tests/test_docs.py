"""The README and its pages: short, with links, commands and names that exist, and tables that can be filled again."""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import typer.main

import fv_lens
from fv_lens.studies.cli import app

from .house import ROOMS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "demos").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "demos" / "pages" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked by, as GitHub and PyPI spell it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_the_readme_is_read_in_two_minutes():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_the_readme_leads_to_every_page():
    links = re.findall(r"\]\(([^)#]+)", TEXTS["README.md"])
    assert {f"demos/{page.name}" for page in PAGES if page.parent.name == "demos"} <= set(links)


@EACH_PAGE
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page.name]):
        file, _, anchor = target.partition("#")
        if not target.startswith("http"):
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


@EACH_PAGE
def test_files_that_are_named_are_there(page):
    """From the root, or from the package where they begin with a room."""
    for file in re.findall(r"`((?:fv_lens|tests|docs|demos)/[a-z0-9_/.]+)`", TEXTS[page.name]):
        assert (ROOT / file).exists(), file
    for file in re.findall(rf"`((?:{'|'.join(ROOMS)})/[a-z0-9_/]+\.py)`", TEXTS[page.name]):
        assert (ROOT / "fv_lens" / file).is_file(), file


@EACH_PAGE
def test_python_is_python_and_its_names_are_public(page):
    for block in code(TEXTS[page.name], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fv_lens":
                assert node.attr in fv_lens.__all__


@EACH_PAGE
def test_names_in_the_text_are_public(page):
    for name in re.findall(r"`fv_lens\.(\w+)\b(?!/)", TEXTS[page.name]):
        assert name in fv_lens.__all__


@EACH_PAGE
def test_commands_have_the_options_that_are_shown(page):
    shown = re.findall(r"`(fv-lens (?!0)[^`]+)`", TEXTS[page.name].replace("\n", " "))
    for line in shown:
        command, *words = shlex.split(line)[1:]
        options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_table_of_the_readme_has_every_command():
    assert set(re.findall(r"^\| `fv-lens (\w+)", TEXTS["README.md"], re.M)) == set(COMMANDS)


# Where a change belongs


def changes() -> list[tuple[str, str, str]]:
    """The table of CONTRIBUTING: (change, file, what to do)."""
    lines = TEXTS["CONTRIBUTING.md"].split("| change | file |")[1].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@pytest.mark.parametrize(("change", "file", "how"), changes())
def test_a_change_belongs_to_one_room_which_has_what_is_named(change, file, how):
    """Names are looked for in the file that the table gives, and in the others of its folder."""
    there = ROOT / "fv_lens" / file.strip("`")
    assert there.is_file()
    beside = "".join(part.read_text(encoding="utf-8") for part in there.parent.glob("*.py"))
    for name in re.findall(r"`([^`]+)`", how):
        if name.isidentifier():
            modules = (there.parent / name).is_dir() or (there.parent / f"{name}.py").is_file()
            assert modules or re.search(rf"\b{name}\b", beside), name
        elif name.endswith(".py"):
            assert list(there.parent.rglob(name)) or (ROOT / "fv_lens" / name).is_file(), name


def test_ten_changes_have_their_place():
    assert len(changes()) >= 10


# Tables that are filled


@pytest.fixture
def tables():
    return module("tables")


def folder(path: Path, lines: list[dict], **summary) -> Path:
    path.mkdir()
    pd.DataFrame(lines).to_csv(path / "results.csv", index=False)
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return path


def scored(method: str, library: str, prompt: str, value: float, measure: str = "accuracy", low=0.05, high=1.0) -> dict:
    known = {"method": method, "library": library, "prompt": prompt, "measure": measure, "value": value}
    return known | {"low": low, "high": high, "n": 40, "part": "score"}


def row(page: str, label: str) -> list[str]:
    line = next(line for line in page.splitlines() if re.match(rf"\| {re.escape(label)} +\|", line))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_page_has_one_block_for_each_table(tables):
    for name in tables.BLOCKS:
        assert (
            TEXTS["results.md"].count(f"<!-- {name} -->") == TEXTS["results.md"].count(f"<!-- end of {name} -->") == 1
        )


@pytest.mark.slow
def test_the_table_of_a_study_is_what_its_command_prints(tables, tmp_path):
    known = {"part": "score", "row": "FV", "value": 0.5, "low": 0.25, "high": 0.75, "n": 20}
    lines = [
        known | {"group": group, "name": name, "measure": measure}
        for group, name in (("relation", "antonym"), ("all", "all"))
        for measure in ("accuracy", "first_token_accuracy", "log_prob")
    ]
    made = {"model": "a model", "dtype": "float32", "versions": {"torch": "2"}}
    made |= {"chosen": {"layer": 3}, "settings": {"n_shots": 10, "n_pairs": 20, "n_validation": 10}}
    page = tables.filled(TEXTS["results.md"], {"study": folder(tmp_path / "study", lines, **made)})
    block = page.split("<!-- study -->")[1].split("<!-- end of study -->")[0]
    assert row(block, "FV")[0] == "0.50 [0.25, 0.75]" and "20 test words" in block and "49 relations" not in block


def test_analogies_are_filled_from_two_folders_and_the_rest_stays(tables, tmp_path):
    lines = [scored("prompt only", "", "one-shot", 0.125), scored("prompt only", "", "one-shot", 0.9, "log_prob")]
    lines += [scored("posterior", of, "zero-shot", x) for of, x in (("full", 0.5), ("family left out", -0.04))]
    folders = {name: folder(tmp_path / name, lines) for name in ("analogies", "analogies-bats")}
    before = TEXTS["results.md"]
    page = tables.filled(before, folders)
    start = page.index("<!-- analogies -->")
    assert page[:start] == before[:start] and page.split("<!-- end of analogies -->")[1] in before
    with_interval = ".12 [.05, 1.00]"
    cells = row(page[start:], "prompt alone, one-shot")
    assert cells == [with_interval, "same", "same", with_interval, "same"]
    cells = row(page[start:], "posterior, zero-shot")
    assert cells[0] == ".50 [.05, 1.00]" and cells[1] == "" and cells[2] == "-.04 [.05, 1.00]"


def test_the_papers_composite_is_filled_with_differences_and_groups(tables, tmp_path):
    lines = []
    for group in ("all", "far"):
        for of in ("full", "relation left out"):
            posterior = scored("posterior", of, "one-shot", 0.25)
            gain = scored("affine, full - posterior", of, "one-shot", 0.5)
            lines += [{**posterior, "group": group}, {**gain, "group": group}]
    lines.append({**scored("prompt only", "", "one-shot", 0.125), "group": "all"})
    place = folder(tmp_path / "affine", lines, model="gpt2", dtype="torch.bfloat16", vectors=["a", "b"], layer=3)
    page = tables.filled(TEXTS["results.md"], {"affine-gemma": place})
    page = page[page.index("<!-- affine-gemma -->") :]
    assert "gpt2, in bfloat16, " in page and "2 vectors at layer 3:" in page
    assert row(page, "posterior") == [".25 [.05, 1.00]", ".25 [.05, 1.00]", "", ".25 [.05, 1.00]"]
    assert row(page, "prompt only")[:3] == [".12 [.05, 1.00]"] * 3
    assert row(page, "affine, full \N{MINUS SIGN} posterior")[0] == "**+.50** [.05, 1.00]"


def test_choices_are_filled_with_the_way_that_was_chosen(tables, tmp_path):
    lines = [
        scored("posterior", "full", "one-shot", 0.5, "choice"),
        scored("weight profiles", "full", "", 0.25, "choice"),
    ]
    lines += [scored("shared + fitted", "full", "one-shot", 0.75, "choice_both_ways", float("nan"), float("nan"))]
    chosen = {"row": "shared + fitted, full, one-shot", "measure": "choice_both_ways"}
    summary = {"chance": 0.25, "chosen on validation questions": chosen}
    folders = {name: folder(tmp_path / name, lines, **summary) for name in ("u2", "google", "bats")}
    page = tables.filled(TEXTS["results.md"], folders)
    page = page[page.index("<!-- choices -->") :]
    assert row(page, "chance") == [".25", ".25", ".25"]
    assert row(page, "likeness of the weights of A:B and C:D")[0] == ".25 [.05, 1.00]"
    label = r"**chosen on validation**: shared + fitted, log P(D \| C) + log P(C \| D)"
    assert [line.split()[-6::2] for line in page.splitlines() if line.startswith(f"| {label}")] == [[".75"] * 3]


def test_questions_of_the_best_model_are_chosen_and_completed(tables, tmp_path):
    both = [("posterior", "full", "one-shot"), ("affine, full", "full", "one-shot"), ("prompt only", "", "one-shot")]
    chosen = {"row": "affine, full, full, zero-shot", "measure": "choice_minus_plain"}
    way = scored("affine, full", "full", "zero-shot", 0.75, "choice_minus_plain")
    asked = folder(
        tmp_path / "u2", [*(scored(*of, 0.5, "choice") for of in both), way], chance=0.25,
        **{"chosen on validation questions": chosen},
    )  # fmt: skip
    completed = folder(tmp_path / "scan", [scored(*of, 0.125) for of in both])
    page = tables.filled(TEXTS["results.md"], {"best-u2": asked, "best-scan": completed})
    page = page[page.index("<!-- best-model -->") :]
    assert row(page, "chance") == [".25", ""]
    for label in ("posterior", "affine, full", "prompt alone"):
        assert row(page, label) == [".50 [.05, 1.00]", ".12 [.05, 1.00]"]
    label = r"**chosen on validation**: affine, full, zero-shot, log P(D \| C), minus that without the vector"
    assert f"| {label} | .75 [.05, 1.00]" in page


def test_people_are_filled_with_p(tables, tmp_path):
    known = {"measure": "relations", "value": 0.594, "low": -0.31, "high": 0.77, "n": 10}
    lines = [known | {"vectors": "FFV", "p": 0.0002}, known | {"vectors": "FV", "p": float("nan")}]
    page = tables.filled(TEXTS["results.md"], {"humans": folder(tmp_path / "humans", lines)})
    cells = row(page[page.index("<!-- humans -->") :], "relations, vectors of all pairs")
    assert cells[:2] == [".59 [-.31, .77], p = .0002", ".59 [-.31, .77]"]


def test_a_name_that_no_table_has_is_refused(tables):
    with pytest.raises(SystemExit, match="Give NAME=FOLDER"):
        tables.main(["study-of-mine=here"])


# API pages


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_api_pages(tmp_path):
    pytest.importorskip("pdoc", reason="API pages need the extra 'docs'")
    module("api").main(tmp_path)  # ends with an error where a name is missing, or pdoc warns
    assert (tmp_path / "fv_lens" / "plots.html").is_file()
