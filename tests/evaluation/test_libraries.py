"""Scores of a library: those of `evaluate` and `side_effects` for each of its vectors."""

import pytest

from fv_lens.datasets.relations import Relation
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.evaluation.libraries import measure_library
from fv_lens.evaluation.side_effects import side_effects
from fv_lens.ground.errors import InputError
from fv_lens.models.identity import identity_of
from fv_lens.models.lens import lens_of

from ..vectors.made import library_of

WORDS = {
    name: Relation(name, [(f"w{i}", f"w{(i + step) % 200}") for i in range(start, start + 60, 2)])
    for name, step, start in (("a", 1, 0), ("b", 3, 60))
}
OTHER = Relation("other", [(f"w{i}", f"w{i - 1}") for i in range(121, 181, 2)])


def test_each_vector_has_the_scores_of_evaluate_and_of_its_side_effects(llama):
    measured = measure_library(llama, library_of(llama, "ab"), WORDS, others=[OTHER, WORDS["a"]])
    for name, others in (("a", [OTHER]), ("b", [OTHER, WORDS["a"]])):
        expected = evaluate(llama, WORDS[name], measured[name])
        for row, result in expected.rows.items():
            own = "vector" if row == expected.name else row
            for measure in ("accuracy", "first_token_accuracy", "log_prob"):
                assert str(measured.score(name, measure, own)) == str(getattr(result, measure))
        effects = side_effects(llama, WORDS[name], measured[name], others).rows["vector"]
        for measure in ("divergence", "others", "lost", "wrong_way"):
            assert str(measured.score(name, measure)) == str(getattr(effects, measure))
    assert "10-shot" in set(measured.scores["row"]) and measured.identity == identity_of(lens_of(llama))


def test_without_controls_and_other_relations_the_vector_alone_is_measured(llama):
    measured = measure_library(llama, library_of(llama, "a"), {"a": WORDS["a"]}, controls=False)
    assert set(measured.scores["row"]) == {"vector"} and "divergence" not in set(measured.scores["measure"])


def test_words_that_are_not_known_are_asked_for(llama):
    with pytest.raises(InputError, match="^The words of 'a' are not known; give relations={'a': ...}"):
        measure_library(llama, library_of(llama, "a"))
    with pytest.raises(InputError, match="^relations has 'b', which the library has no vector of"):
        measure_library(llama, library_of(llama, "a"), WORDS)
    with pytest.raises(InputError, match="^library is dict; give a Library"):
        measure_library(llama, dict(library_of(llama, "a")), WORDS)
