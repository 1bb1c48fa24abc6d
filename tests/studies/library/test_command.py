"""`fv-lens library`: its table and page, what it measures, saves and shares, and what it refuses."""

import re

import pytest

from fv_lens.evaluation import libraries
from fv_lens.models import load
from fv_lens.models.identity import identity_of
from fv_lens.models.lens import lens_of
from fv_lens.vectors.library import Library
from fv_lens.vectors.sharing import hub

from ...vectors.made import library_of, scores_of
from ..commands import call


def fv_lens(*arguments):
    """Exit code and output of a command, on one line where it is an error."""
    result = call(*arguments)
    return result.exit_code, result.output


@pytest.fixture
def folder(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "load_model", lambda name: {"tiny/llama": llama}[name])
    library_of(llama).with_scores(scores_of("ab")).save(tmp_path / "library")
    return tmp_path / "library"


def test_the_table_has_a_line_for_each_vector_and_a_column_for_each_control(folder):
    code, text = fv_lens("library", folder)
    assert code == 0 and "3 vectors (tuned) of tiny/llama, after layer 1" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert lines["a"] == ["0.75", "[0.50,", "0.88]", "0.00"] and lines["c"] == []


def test_a_library_is_measured_saved_and_drawn(folder, llama, tmp_path, monkeypatch):
    asked = []

    def measured(model, library, others):
        asked.append(others)
        return library.for_model(model).with_scores(scores_of("abc", 0.5))

    monkeypatch.setattr(libraries, "measure_library", measured)
    page, saved = tmp_path / "page.html", tmp_path / "saved"
    code, text = fv_lens(
        "library", folder, "--measure", "--others", "antonym,synonym", "--page", page, "--save", saved,
        "--licence", "mit",
    )  # fmt: skip
    assert code == 0 and asked == [["antonym", "synonym"]] and str(page) in text and str(saved) in text
    assert Library.load(saved).identity == identity_of(lens_of(llama))
    assert "license: mit" in (saved / "README.md").read_text()
    html = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)
    assert "Whole answers right, mean over 3 relations: 0.50" in html and "0.50" in html and "divergence" in html


def test_the_page_of_vectors_that_were_not_measured_says_so(folder, llama, tmp_path):
    library_of(llama, "ab").save(folder)
    code, _ = fv_lens("library", folder, "--page", tmp_path / "page.html")
    assert code == 0 and "Nothing was measured of these vectors." in (tmp_path / "page.html").read_text()


def test_a_library_is_taken_from_the_hub_and_put_there(folder, monkeypatch):
    fetched, pushed = [], []
    monkeypatch.setattr(hub, "fetched", lambda *args: fetched.append(args) or folder)
    monkeypatch.setattr(hub, "push", lambda path, repo, *args: pushed.append((repo, args)) or "https://hub/commit/1")
    code, text = fv_lens("library", "org/name", "--revision", "v1", "--push", "other/name", "--private")
    assert code == 0 and fetched == [("org/name", "v1", None)] and "https://hub/commit/1" in text
    assert pushed == [("other/name", ("3 function vectors of tiny/llama, layer 1", True, None, None))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--others", "antonym"], "--others is 'antonym', and nothing is measured; give --measure as well"),
        (["--revision", "v1"], "--revision is 'v1', and .* is not on the hub; give org/name"),
        (["--page", "/nowhere/page.html"], "Cannot write '/nowhere/page.html'"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, expected):
    code, text = fv_lens("library", folder, *options)
    assert code == 2 and re.search(expected, text)


def test_a_folder_that_is_missing_is_named(tmp_path):
    code, text = fv_lens("library", tmp_path / "none")
    assert code == 2 and "There is no folder" in text
