"""Vectors against people on a tiny model: cross-fitting, typicality by hand, and what a run leaves in its folder."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from fv_lens.datasets.ratings import PairRatings
from fv_lens.datasets.semeval import RatedRelation
from fv_lens.datasets.semeval import halves as dealt
from fv_lens.ground.errors import InputError
from fv_lens.models import load as models
from fv_lens.models.lens import lens_of
from fv_lens.studies import cli
from fv_lens.studies.folders import LOCK, MARKER, OutputFolder
from fv_lens.studies.humans import steps as human_study
from fv_lens.studies.humans import study as human_outputs
from fv_lens.studies.humans.steps import HALVES, KINDS, compare, human_vectors, typicality
from fv_lens.studies.humans.study import place, study
from fv_lens.studies.job import Job

from .. import oracles, tiny
from .test_report import Page

CODES = ("1a", "2a", "3a", "4b", "5a")
HEADS = [(0, 1), (1, 2), (1, 3)]


def made_relation(r: int, n: int = 10) -> RatedRelation:
    pairs = tuple((f"w{30 * r + i}", f"w{30 * r + 10 + i}") for i in range(n))
    ratings = tuple(float((7 * i + r) % 23) + 1 for i in range(n))
    return RatedRelation(CODES[r], f"relation {r}", "CLASS", "Y of X", pairs, ratings)


RELATIONS = {code: made_relation(r) for r, code in enumerate(CODES)}


def made_ratings(codes=CODES) -> PairRatings:
    rng, lines = np.random.default_rng(0), []
    for i, a in enumerate(codes):
        for b in codes[i:]:
            for k in range(8):
                pairs = [RELATIONS[code].pairs[(k * step) % 10] for code, step in ((a, 1), (b, 3))]
                lines.append((a, b, *pairs, float(rng.uniform(1, 7)), 10))
    return PairRatings(pd.DataFrame(lines, columns=["relation1", "relation2", "pair1", "pair2", "rating", "n"]))


@pytest.fixture(scope="module")
def model():
    return tiny.build("llama")


@pytest.fixture(scope="module")
def vectors(model):
    return human_vectors(model, RELATIONS, 1, HEADS, steps=3)


@pytest.mark.slow
def test_there_is_a_vector_of_each_kind_and_half(vectors):
    assert set(vectors) == set(KINDS)
    for halves in vectors.values():
        assert set(halves) == set(HALVES) and all(set(some) == set(CODES) for some in halves.values())
    assert not torch.equal(vectors["FV"]["half 0"]["1a"].vector, vectors["FV"]["half 1"]["1a"].vector)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_a_half_is_tuned_on_none_of_the_other_halfs_words(vectors, code):
    halves = dealt(RELATIONS)[code]
    for half in (0, 1):
        training = vectors["FFV"][f"half {half}"][code].training
        words = {*training["train_words"], *training["validation_words"]}
        assert words == {a for a, b in RELATIONS[code].pairs if halves[a, b] == half}


@pytest.mark.slow
def test_typicality_is_that_of_the_vector_which_has_not_seen_the_pair(model, vectors):
    halves = dealt(RELATIONS)
    found, plain = typicality(lens_of(model), vectors["FFV"], RELATIONS, halves)
    rhos, without = [], []
    for code, one in RELATIONS.items():
        scored = []
        for pair in one.pairs:
            prompt, (answer,) = oracles.in_words(model, f"Q: {pair[0]}\nA:", (pair[1],))
            fv = vectors["FFV"][f"half {1 - halves[code][pair]}"][code]
            edits = [oracles.Change(fv.layer, fv.vector)]
            scored.append([float(oracles.continuation_log_probs(model, prompt, answer, e).sum()) for e in (edits, [])])
        rhos.append(stats.spearmanr(np.array(scored)[:, 0], one.ratings).statistic)
        without.append(stats.spearmanr(np.array(scored)[:, 1], one.ratings).statistic)
    assert found.value == pytest.approx(np.mean(rhos), abs=1e-6)
    assert plain.value == pytest.approx(np.mean(without), abs=1e-6)


def test_every_kind_is_compared(model, vectors):
    found = compare(model, vectors, RELATIONS, made_ratings())
    assert set(found) == set(KINDS)
    for one in found.values():
        assert -1 <= one.relations.rho <= 1 and 0 < one.relations.p <= 1 and one.relations.n_relations == 5
        assert {*one.pairs} == {"weight profiles", "composites"}
        assert (
            one.pairs["composites"]["all"].n
            == one.pairs["composites"]["within"].n + one.pairs["composites"]["between"].n
        )


@pytest.mark.slow
def test_what_a_half_says_of_its_own_pairs_does_not_count(model, vectors):
    """Other vectors on half 0 change nothing for comparisons whose pairs are both in half 0."""
    halves = dealt(RELATIONS)
    whole = made_ratings()
    inside = [
        halves[a][p] == 0 and halves[b][q] == 0
        for a, b, p, q in zip(*(whole.frame[name] for name in ("relation1", "relation2", "pair1", "pair2")))
    ]
    ratings = whole.select(np.array(inside))
    other = {"half 0": vectors["FV"]["half 0"], "half 1": vectors["FFV"]["half 1"]}
    levels = [
        human_study._pair_level(lens_of(model), some, ratings, halves)["composites"]["all"].value
        for some in (vectors["FFV"], other, other | {"half 1": vectors["FV"]["half 1"]})
    ]
    assert levels[0] == levels[1] != levels[2]


def test_a_relation_without_vectors_is_named(model, vectors):
    few = {code: RELATIONS[code] for code in CODES[:4]}
    with pytest.raises(InputError, match="People rated relation '5a', of which there is no vector"):
        compare(model, vectors, few, made_ratings())


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures_and_goes_on(model, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        human_outputs, "human_vectors", lambda *args, **how: made.append(1) or human_vectors(*args, **how, steps=2)
    )

    def run(layer):
        with OutputFolder(tmp_path, "humans") as folder:
            given = (RELATIONS, made_ratings(), layer, HEADS, Job(folder, "fv-lens humans", lambda line: None))
            return study(model, *given)

    first = run(1)
    left = {path.name for path in tmp_path.iterdir()} - {LOCK, MARKER}
    assert left == {"report.html", "results.csv", "summary.json", "stages"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    drawn = [parts["id"] for _, parts in page.tags if parts.get("class") == "plotly-graph-div"]
    assert drawn == ["similarity", "map"] and "Download people.csv" in page.text
    for line in first[first.measure == "typicality, cross-fitted"].itertuples():
        assert f"{line.vectors} {line.value:.2f} [{line.low:.2f}, {line.high:.2f}]" in page.text
    again = run(1)
    assert made == [1]
    pd.testing.assert_frame_equal(first, again)
    assert {"FFV", "FV", "mean difference", "FFV - FV", "no vector"} <= set(first.vectors)
    with pytest.raises(InputError, match="holds another run. What differs: layer: 1 there, 2 here"):
        run(2)


def test_place_without_vectors_is_the_middle_of_the_grid(model, tmp_path, vectors):
    layer, heads = place(model, tmp_path)
    assert 0 <= layer < 3 and heads is None
    vectors["FFV"]["all"]["1a"].save(tmp_path / "a.safetensors")
    (tmp_path / "summed").mkdir()
    vectors["FV"]["all"]["1a"].save(tmp_path / "summed" / "a.safetensors")
    assert place(model, tmp_path) == (1, HEADS)


def test_the_command_says_what_is_missing(tmp_path):
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path / "nowhere")])
    assert found.exit_code == 2 and "is not a folder; give the path of the SemEval-2012" in found.output
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path)])
    assert found.exit_code == 2 and "has no subcategories-definitions.txt" in found.output


@pytest.mark.slow
def test_the_command_prints_the_table(model, tmp_path, monkeypatch):
    monkeypatch.setattr("fv_lens.datasets.semeval.load_semeval", lambda folder: RELATIONS)
    monkeypatch.setattr("fv_lens.datasets.ratings.load_ratings", lambda folder: made_ratings())
    monkeypatch.setattr(models, "load_model", lambda name: model)
    monkeypatch.setattr(human_outputs, "place", lambda model, folder: (1, HEADS))
    monkeypatch.setattr(human_outputs, "human_vectors", lambda *args, **how: human_vectors(*args, **how, steps=1))
    found = CliRunner().invoke(cli.app, ["humans", str(tmp_path), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert "Spearman's rho with people" in found.output and "mean difference" in found.output
