"""Results in notebooks: well-formed, small HTML that says what the object says, and in which words are only words."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from markupsafe import escape

from fv_lens.analogies.composition import METHODS, Composition, Folded
from fv_lens.analogies.scores import LIBRARIES, AnalogyScores, Row
from fv_lens.analogies.solve import AnalogyAnswer
from fv_lens.datasets.questions import Question
from fv_lens.datasets.relations import Relation
from fv_lens.evaluation.decoding import Decoding, Token
from fv_lens.evaluation.humans import HumanComparison
from fv_lens.evaluation.similarity import similarity_matrix
from fv_lens.ground import markup
from fv_lens.ground.errors import InputError
from fv_lens.ground.scores import Score
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.library import Library

from ..plots.made import made_effects, made_evaluation, made_sweep

HOSTILE = "<script>alert(1)</script>\"&'"
VOID = {"br"}


class Balanced(HTMLParser):
    """Tags that are open, and the text between them; an assertion for an end that fits no beginning."""

    def __init__(self, drawn: str):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(drawn)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.words)).replace("\N{MINUS SIGN}", "-")

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def noise(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def relation(name="antonym", n=20):
    return Relation(name, [(f"{name} {i}", [f"no {name} {i}", f"un{name} {i}"]) for i in range(n)], [name], name, name)


def vector(name="antonym", **more):
    return FunctionVector(noise(8), 1, **{"model": "a model", "relation": name} | more)


def tuned(name="antonym"):
    training = dict(n_pairs=20, n_validation=10, chosen_step=4, validation_loss=1.25, losses=[3.0] * 6)
    return vector(name, method="tuned", training=training | {"validation_losses": [[0, 7.5], [4, 1.25], [6, 2.0]]})


def composite(name="antonym"):
    weights = {name: 0.75, "b": 0.25}
    return FunctionVector(noise(8), 1, method="composite", weights=weights, source=(name, f"no {name}"))


def similarity(name="antonym", n=3, **how):
    names = [name, *(f"r{i}" for i in range(1, n))]
    return similarity_matrix({of: FunctionVector(noise(8, i), 1) for i, of in enumerate(names)}, **how)


def decoding(name="antonym"):
    top = tuple(Token(f" {name}{i}", i, i, 0.25 / (i + 1), -1.0 - i, 0.5) for i in range(3))
    low = (Token("\n", 9, 99, 1e-6, -12.0, -3.25),)
    named = {name: Token(f" {name}", 1, 7, 0.125, -2.0, 0.5), f"{name}s": Token(" an", 2, 8, 0.1, -2.3, 0.25)}
    return Decoding(top, low, named, name, 4, name, "model", True, 100, (name,))


def answer(name="antonym", choices=()):
    some = {} if choices else dict(completions=((name, -0.5), ("b", -2.0)), plain_completions=((f"{name}s", -1.0),))
    scored = dict(scores=(-2.0, -1.5), plain_scores=(-3.0, -4.25)) if choices else {}
    empty = dict(completions=(), plain_completions=())
    return AnalogyAnswer(
        (name, "cold"), name, weights={name: 0.75, "b": 0.25}, choices=choices, **empty | some | scored
    )


def analogies(name="antonym"):
    kin = [f"f{i % 12}" for i in range(24)]
    asked = [Question((name, "b"), [("c", "d"), ("c", "e")], 0, "c", ["d"], family=of) for of in kin]
    right = (np.arange(24) % 4 == 0).astype(float)
    values = {Row(name, library, "zero-shot"): {"accuracy": right, "choice": 1 - right} for library in LIBRARIES}
    return AnalogyScores({Row("prompt only", "", name): {"accuracy": right}} | values, asked, kin, 3)


def folded(name="antonym"):
    full = Composition("gain", 0.5, True, 0.25, noise(32), 8, 0.75, noise(32), 1)
    return Folded(full, (full, METHODS["single best"]), {name: 0, "b": 1}, {"accuracy": 0.375, "log_prob": -2.5})


def everything(name="antonym"):
    """Every result, over words that hold `name`."""
    plain = name.replace("\n", " ")  # relations and questions refuse words of more than one line
    some = {
        "effects": made_effects(relation=name), "one prompt": made_effects(n=1, relation=name),
        "sum": vector(name, model=plain),
        "sum of heads": vector(name, heads=[(0, 1), (2, 3)], strength=2.0), "tuned": tuned(name),
        "composite": composite(name), "combination": 0.5 * vector(name) + 0.25 * tuned(name),
        "evaluation": made_evaluation(relation=name, controls=(name, "10-shot")), "sweep": made_sweep(relation=name),
        "decoding": decoding(name), "relation": relation(plain), "split": relation(plain).split(),
        "answer": answer(name), "choice": answer(name, (name, "b")), "analogies": analogies(plain),
        "similarity": similarity(name), "distances": similarity(name, metric="euclidean"),
        "map of similarity": similarity(name, 20),
        "humans": HumanComparison(0.42, 0.0021, 0.1, 0.63, 10, 45, 0.9), "settings": folded(name).whole,
        "folds": folded(name), "score": Score(-0.5, -0.75, 0.25, 4), "no interval": Score(0.5, -math.inf, math.inf, 1),
        "library": Library({name: tuned(name), "b": vector()}, errors={name: InputError(f"too few {name}")}),
    }  # fmt: skip
    return some


ALL = sorted(everything())
NAMELESS = {"humans", "settings", "score", "no interval"}


def shown(result) -> str:
    return Balanced(result._repr_html_()).text


# Of every result


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("which", ALL)
def test_words_of_the_data_are_text_in_well_formed_html(which):
    drawn = everything(HOSTILE)[which]._repr_html_()
    seen = Balanced(drawn)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in seen.seen} and HOSTILE not in drawn
    assert not any(name.startswith("on") or name in ("src", "href") for _, of in seen.seen for name in of)
    assert (escape(HOSTILE) in drawn or escape(HOSTILE.replace('"', '\\"')) in drawn) != (which in NAMELESS)


@pytest.mark.slow
@pytest.mark.parametrize("which", ALL)
def test_what_is_shown_is_small_and_has_no_colours_of_its_own_for_text_and_page(which):
    drawn = everything()[which]._repr_html_()
    assert len(drawn) < 40_000
    assert not re.search(r"(?<!-)\bcolor: (?!inherit)", drawn)
    backgrounds = re.findall(r"background: ([^;}\"]*)", drawn)
    assert all(re.match(r"transparent|rgba|linear-gradient\(to right, rgba", one.strip()) for one in backgrounds)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("which", ALL)
def test_repr_is_one_line(which):
    said = repr(everything("two\nlines")[which])
    assert "\n" not in said and said.startswith(type(everything()[which]).__name__)


@pytest.mark.slow
def test_large_results_are_small_too():
    words = ("word " * 40).strip()
    many = {f"{words}{i}": tuned() for i in range(300)}
    weights = {name: 1 / 300 for name in many}
    for large in (
        made_effects(n=3, layers=126, heads=128), made_sweep(layers=tuple(range(120)), heads=tuple(range(1, 9))),
        similarity(n=150), relation(words, n=3000), Library(many, errors={name: InputError(words) for name in many}),
        FunctionVector(noise(8), 1, weights=weights), answer(words), FunctionVector(noise(8), 1, heads=[(0, 1)] * 900),
    ):  # fmt: skip
        assert len(large._repr_html_()) < 40_000, large
        Balanced(large._repr_html_())


# What each says


def test_effects_list_the_strongest_heads_with_intervals_and_outline_them():
    effects = made_effects()
    low, high = effects.confidence_interval()
    text = shown(effects)
    for layer, head in (*effects.top(3), *effects.top(3, sign=-1)):
        line = f"L{layer}H{head} {effects.mean[layer, head]:+.5f} [{low[layer, head]:.5f}, {high[layer, head]:.5f}]"
        sure = low[layer, head] > 0 or high[layer, head] < 0
        assert (f"{line} not shown" in text) != sure and line in text
    assert "a model" in text and "6 corrupted prompts of 10 shots" in text and "probability of the answer" in text
    titles = re.findall(r"<title>L(\d)H(\d): ", effects._repr_html_())
    assert {tuple(map(int, head)) for head in titles} >= {*effects.top(3), *effects.top(3, sign=-1)}


def test_effects_of_one_prompt_have_no_interval():
    assert "(no interval)" in shown(made_effects(n=1)) and "inf" not in made_effects(n=1)._repr_html_()


def test_a_vector_says_what_it_is_and_what_it_is_made_of():
    of_heads, mixed, of_pair = (
        vector(heads=[(0, 1), (2, 3)], strength=2.0),
        0.5 * vector() + 2 * tuned("b"),
        composite(),
    )
    assert "L0H1, L2H3" in shown(of_heads) and f"norm {of_heads.vector.norm():.3g}, 8 numbers" in shown(of_heads)
    assert "after layer 1, at hook_resid_post, last token" in shown(of_heads) and "strength 2" in shown(of_heads)
    assert "0.5 × sum of antonym + 2 × tuned of b" in shown(mixed)
    assert "antonym : no antonym" in shown(of_pair) and "antonym 0.75 b 0.25" in shown(of_pair)
    assert "20 pairs, step 4 of 6" in shown(tuned()) and "1.25 nats" in shown(tuned())


def test_the_frame_of_a_vector_has_what_adds_up_to_it():
    assert vector(heads=[(2, 3)], strength=2.0).to_frame().values.tolist() == [["head", "L2H3", 2.0]]
    assert composite().to_frame().values.tolist() == [["relation", "antonym", 0.75], ["relation", "b", 0.25]]
    a, b = vector(), vector("b")
    made = (0.5 * (a - FunctionVector(b.vector, 1, model="a model", relation="b"))).strengthened(4.0)
    frame = made.to_frame()
    assert frame.part.tolist() == ["sum of antonym", "sum of b"] and frame.weight.tolist() == [2.0, -2.0]
    torch.testing.assert_close(made.vector, 2.0 * a.vector - 2.0 * b.vector)
    assert vector().to_frame().empty


def test_an_evaluation_shows_every_score_and_says_where_no_gain_is_shown():
    evaluation = made_evaluation(right=(18, 2, 17))
    text = shown(evaluation)
    for row in evaluation.rows.values():
        for score in (row.accuracy, row.first_token_accuracy, row.top_k, row.log_prob):
            assert str(score) in text
    gains = [row.accuracy_gain for row in evaluation.controls.values()]
    assert [gain.differs() for gain in gains] == [True, False]
    assert f"{gains[1].signed} not shown" in text and f"{gains[0].signed} not shown" not in text


def test_a_sweep_marks_the_best_and_shows_the_accuracy_of_each_layer_and_strength():
    sweep = made_sweep()
    best, text = sweep.best(), shown(sweep)
    vector = sweep.names.index(f"{len(best.heads)} heads")
    for layer, line in zip(sweep.layers, sweep.accuracy[vector]):
        assert re.search(rf" {layer} " + " ".join(rf"(★ )?{x:.2f}" for x in line), text)
    at = sweep.layers.index(best.layer), sweep.strengths.index(best.strength)
    assert f"★ {sweep.accuracy[vector][at]:.2f}" in text and text.count("★") == 1
    assert f"at layer {best.layer}, strength {best.strength:g}" in text and "without a vector 0.25" in text
    assert all(f"{name} " in text and f"{part.max():.2f}" in text for name, part in zip(sweep.names, sweep.accuracy))


def test_where_accuracies_are_equal_the_one_that_best_gives_is_told():
    sweep = replace(made_sweep(), right=np.ones_like(made_sweep().right))
    best = sweep.best()
    line = f"{len(best.heads)} heads {best.layer} {best.strength:g} 1.00"
    assert line in shown(sweep) and (best.layer, best.strength) != (sweep.layers[0], sweep.strengths[0])


def test_a_long_sweep_shows_the_layers_about_the_best():
    sweep = made_sweep(layers=tuple(range(90)), heads=(1,))
    assert f" {sweep.best().layer} " in shown(sweep) and "25 of 90 layers" in shown(sweep)


def test_a_decoding_shows_tokens_ranks_and_pieces():
    text = shown(decoding())
    assert '" antonym1" 1 0.12 +0.50' in text and '"\\n" 99 1e-06 -3.25' in text
    assert 'antonym: " antonym" 7' in text and 'antonyms: " an" a piece of the name 8' in text
    assert decoding()._units in text


def test_a_relation_shows_its_first_pairs_with_all_their_answers():
    text = shown(relation())
    assert "antonym 7 no antonym 7, unantonym 7" in text and "antonym 8" not in text and "and 12 more" in text
    assert "pairs 20" in text


def test_relations_and_splits_are_frames_of_words_and_answers():
    whole, parts = relation(), relation().split()
    assert list(zip(whole.to_frame().word, whole.to_frame().answers)) == list(whole.pairs)
    frame = parts.to_frame()
    for name in ("train", "validation", "test"):
        mine = frame[frame.part == name]
        assert list(zip(mine.word, mine.answers)) == list(getattr(parts, name).pairs)
        assert f"{name} {len(mine)} {mine.word.iloc[0]}" in shown(parts)


def test_an_answer_shows_weights_completions_and_the_chosen():
    text = shown(answer())
    assert "antonym : cold :: antonym : ?" in text and "antonym 0.75 b 0.25" in text
    assert f"antonym {math.exp(-0.5):.2f} b {math.exp(-2):.2f}" in text and f"antonyms {math.exp(-1):.2f}" in text
    assert "antonym -2.00 ★ -3.00 b ★ -1.50 -4.25" in shown(answer(choices=("antonym", "b")))


def test_analogies_are_shown_by_method_and_library_beside_chance():
    result = analogies()
    text = shown(result)
    for row, measures in result.values.items():
        for measure in measures:
            assert str(result.score(row, measure)) in text
    assert all(name in text for name in LIBRARIES) and "by guessing 0.50" in text and "24 questions" in text


def test_a_matrix_shows_its_numbers_or_where_they_are_many_the_ends():
    few, many = similarity(), similarity(n=20)
    for name, row in few.to_frame().iterrows():
        assert f"{name} " + " ".join(f"{x:.2f}" for x in row) in shown(few)
    apart = many.values[np.triu_indices(20, 1)]
    assert f"{apart.max():.2f}" in shown(many) and f"{apart.min():.2f}" in shown(many)
    i, j = np.argwhere(many.values == apart.max())[0]
    assert f"{many.names[i]}, {many.names[j]} {apart.max():.2f}" in shown(many)


def test_a_distance_of_nothing_is_0_without_a_sign():
    assert "-0.00" not in shown(similarity(metric="euclidean"))


@pytest.mark.slow
def test_humans_settings_folds_and_scores_say_their_numbers():
    some = everything()
    assert "0.42 [0.10, 0.63]" in shown(some["humans"]) and "0.0021" in shown(some["humans"])
    assert "people with themselves 0.90" in shown(some["humans"]) and "relations 10" in shown(some["humans"])
    assert "temperature 0.5" in shown(some["settings"]) and "shared [32]" in shown(some["settings"])
    assert repr(some["settings"]).startswith("Composition(weighting='gain', temperature=0.5, center=True, scale=0.25")
    assert "without b weighting='single'" in shown(some["folds"]) and "accuracy 0.38" in shown(some["folds"])
    assert (
        shown(some["score"]) == "-0.50 [-0.75, 0.25] n = 4" and shown(some["no interval"]) == "0.50 (no interval) n = 1"
    )


def test_the_frame_of_folds_has_the_settings_a_family_is_answered_with():
    frame = folded().to_frame().set_index("family")
    assert frame.fold.to_dict() == {"antonym": 0, "b": 1} and frame.weighting.tolist() == ["gain", "single"]
    assert frame.loc["antonym", "temperature"] == 0.5 and Folded(Composition()).to_frame().empty


def test_tuned_vectors_are_listed_with_their_losses_and_with_why_others_are_missing():
    result = Library({"antonym": tuned(), "b": vector("b")}, errors={"c": InputError("too few pairs")})
    line = result.to_frame().set_index("relation").loc["antonym"]
    assert (line.n_pairs, line.chosen_step, line.start_loss, line.validation_loss) == (20, 4, 7.5, 1.25)
    norm = f"{tuned().vector.norm():.3g}"
    assert f"antonym {norm} 20 4 7.50 1.25 b {norm}" in shown(result) and "c too few pairs" in shown(result)
    assert repr(result) == "Library(2 vectors of a model, layer 1: 'antonym', 'b'; 1 left out)"


# The pieces


def test_what_is_html_is_not_escaped_again_and_what_is_not_is_everywhere():
    safe = markup.escape(HOSTILE)
    assert safe == escape(HOSTILE) and markup.escape(safe) is safe
    pieces = (
        markup.small(HOSTILE), markup.tint(HOSTILE, 0.5), markup.bars({HOSTILE: 1}, HOSTILE),
        markup.card("a", HOSTILE, HOSTILE), markup.table([HOSTILE], [[HOSTILE, HOSTILE]]),
        markup.facts({HOSTILE: HOSTILE}), markup.grid([[1.0]], 1, HOSTILE, (HOSTILE, HOSTILE), {(0, 0): HOSTILE}),
        markup.scale("1", HOSTILE, HOSTILE, HOSTILE),
    )  # fmt: skip
    for piece in pieces:
        assert HOSTILE not in piece and escape(HOSTILE) in piece
        Balanced(piece)


def test_long_texts_and_tables_are_cut_and_say_so():
    assert len(markup.escape("a" * 1000)) == markup.LONGEST and markup.escape("a" * 1000).endswith("…")
    drawn = markup.table(["n"], [[i] for i in range(100)], most=7)
    assert drawn.count("<tr>") == 8 and "and 93 more" in drawn
    assert markup.table(["n"], []) == "" and markup.facts({"a": None, "b": "", "c": 0}).count("<tr>") == 1


def cells(drawn: str) -> dict[tuple[int, int], float]:
    """(row from the top, column) -> signed opacity, of a map's strokes."""
    found = {}
    for path, colour, opacity in re.findall(r'<path d="([^"]*)" stroke="rgba\(([^)]*), ([^,)]*)\)"', drawn):
        for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)", path):
            for at in range(int(column), int(column) + int(length)):
                found[int(row), at] = float(opacity) * (1 if colour == markup.WARM else -1)
    return found


def test_a_map_colours_each_cell_by_its_number_row_0_at_the_bottom():
    values = np.random.default_rng(0).uniform(-2, 2, (7, 5))
    values[3, 2], values[4, 1:4] = math.nan, 1.5
    found = cells(markup.grid(values.tolist(), 1.0, "a map"))
    for row, column in np.ndindex(values.shape):
        expected = np.nan_to_num(np.clip(values[row, column], -1, 1))
        assert found.get((6 - row, column), 0.0) == pytest.approx(expected, abs=0.5 / markup.SHADES + 1e-9)


def test_of_a_large_map_the_largest_are_drawn():
    values = np.random.default_rng(0).standard_normal((100, 90))
    found = cells(markup.grid(values.tolist(), 0.1, "a map"))
    assert len(found) <= markup.MOST_CELLS
    least = min(abs(values[99 - row, column]) for row, column in found)
    assert (np.abs(values) > least).sum() <= len(found)


def test_bars_and_tints_are_as_strong_as_their_share_and_blue_below_0():
    width = [float(re.search(r"width: ([\d.]+)em", markup.bar(share))[1]) for share in (0.25, 0.5, -0.5, 3)]
    assert width == [2, 4, 4, 8] and markup.COOL in markup.bar(-0.5) and markup.WARM in markup.bar(0.5)
    alpha = [float(re.search(r", ([\d.]+)\)", markup.tint("a", share))[1]) for share in (0, 0.5, -1)]
    assert alpha == [0, 0.3, 0.6] and markup.COOL in markup.tint("a", -1)
    assert ", 0)" in markup.tint("a", math.nan)


def test_numbers_have_a_true_minus_and_none_where_there_is_no_number():
    assert markup.number(-0.5) == "\N{MINUS SIGN}0.50" and markup.number(-0.001) == "0.00"
    assert markup.number(None) == markup.number(math.nan) == ""


@pytest.mark.slow
def test_every_result_with_a_table_gives_it_as_a_frame():
    bare = {"humans", "settings", "score", "no interval"}
    for name, result in everything().items():
        assert hasattr(result, "to_frame") != (name in bare)
        assert name in bare or isinstance(result.to_frame(), pd.DataFrame)
