"""A table of results made up, as if it were a study's, with its training records and words."""

import numpy as np
import pandas as pd

from fv_lens.ground import scores
from fv_lens.ground.scores import Score
from fv_lens.plots.table import COLUMNS

LEVELS = {  # row -> whole answers right, before noise; the other measures follow
    "zero-shot": 0.04, "10-shot": 0.55, "20-shot": 0.58, "30-shot": 0.58, "10-shot, shuffled": 0.21,
    "FV, strength 1": 0.22, "FV": 0.38, "FFV from FV": 0.53, "FFV from zero": 0.51, "FFV from random": 0.49,
    "mean of FFVs": 0.53, "pooled FFV": 0.17, "FFV of shuffled pairs": 0.08, "another relation's FFV": 0.05,
    "FV of random heads": 0.07, "distributed FV": 0.36, "FV of own heads": 0.4,
}  # fmt: skip
DIFFERENCES = ("FFV from FV - FV", "FFV from FV - 10-shot", "zero-shot - FFV from FV")
KINDS = {
    "inflection": ("noun - plural_reg", "adj - comparative", "verb_inf - 3pSg", "verb_inf - Ving", "verb_Ving - Ved"),
    "derivation": ("noun+less_reg", "un+adj_reg", "adj+ly_reg", "over+adj_reg", "verb+tion_irreg"),
    "encyclopedic": ("country - capital", "country - language", "UK_city - county", "animal - young", "male - female"),
    "lexicographic": ("hypernyms - animals", "synonyms - intensity", "antonyms - gradable", "meronyms - substance"),
    "other": ("antonym", "park-country", "person-instrument", "landmark-country", "a rather long name of a relation"),
}


def made_categories(n=47) -> dict[str, str]:
    """`n` of at most 48 relations, some of every category."""
    named = [(name, kind) for kind, names in KINDS.items() for name in names]
    twice = [*named, *((f"{name} 2", kind) for name, kind in named)][:n]
    return dict(sorted(twice, key=lambda item: list(KINDS).index(item[1])))


def line(part, group, name, row, measure, score: Score) -> dict:
    return dict(zip(COLUMNS, (part, group, name, row, measure, score.value, score.low, score.high, score.n)))


def mean(values: np.ndarray) -> Score:
    """With a normal interval, which is quick, for what is drawn does not depend on how intervals are made."""
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return Score(values.mean(), values.mean() - half, values.mean() + half, len(values))


def made_frame(n=47, words=20) -> pd.DataFrame:
    """A table of all parts, as if measured on `words` test words of each of `n` relations."""
    rng, categories, lines = np.random.default_rng(0), made_categories(n), []
    ease, named = rng.normal(0, 1.1, n), list(categories)
    groups = {("all", "all"): np.arange(n)}
    for kind in dict.fromkeys(categories.values()):
        groups["category", kind] = np.array([at for at, name in enumerate(named) if categories[name] == kind])
    values = {}
    for row, level in LEVELS.items():
        chance = 1 / (1 + np.exp(-(np.log(level / (1 - level)) + ease + rng.normal(0, 0.3, n))))
        right = rng.random((n, words)) < chance[:, None]
        first = right | (rng.random((n, words)) < 0.12)
        log_prob = np.log(np.clip(rng.normal(chance, 0.05)[:, None] + 0 * right, 0.003, 0.97)) - rng.random((n, words))
        for measure, of in {"accuracy": right, "first_token_accuracy": first, "log_prob": log_prob}.items():
            values[row, measure] = of.mean(1)
            score = mean if measure == "log_prob" else scores.proportion
            lines += [line("score", "relation", name, row, measure, score(of[at])) for at, name in enumerate(named)]
    for (group, name), members in groups.items():
        for (row, measure), of in values.items():
            lines.append(line("score", group, name, row, measure, mean(of[members])))
        for row in DIFFERENCES:
            for measure in ("accuracy", "first_token_accuracy", "log_prob"):
                one, other = (values[part, measure][members] for part in row.split(" - "))
                lines.append(line("difference", group, name, row, measure, mean(one - other)))
    for pairs in (1, 2, 3, 5, 10, 20):
        level = np.clip(0.6 * pairs / (pairs + 3.5) + rng.normal(0, 0.15, n), 0, 1)
        lines.append(line("curve", "all", "all", f"{pairs} pairs", "accuracy", mean(level)))
    for row, level in {"FV": 0.71, "FFV from FV": 0.8, "FFV from zero": 0.82, "random": 0.5}.items():
        for reading in ("unembed", "model"):
            score = mean(np.clip(rng.normal(level, 0.25, n), 0, 1))
            lines.append(line("decoding", "all", "all", row, f"name score, {reading}", score))
    cosine = mean(rng.normal(0.27, 0.1, n))
    lines.append(line("stability", "all", "all", "FFV from FV", "cosine over seeds", cosine))
    return pd.DataFrame(lines)


def made_training(n=47, steps=60) -> dict[str, pd.DataFrame]:
    rng, records = np.random.default_rng(0), {}
    for name in made_categories(n):
        step, floor = np.arange(steps + 1), rng.uniform(0.3, 2.5)
        loss = floor + rng.uniform(2, 5) * np.exp(-step / 12) + rng.normal(0, 0.05, steps + 1)
        validation = np.where(step % 5 == 0, loss + 0.2 + 0.008 * step, np.nan)
        records[name] = pd.DataFrame({"step": step, "loss": loss, "validation_loss": validation})
        records[name]["chosen"] = step == np.nanargmin(validation)
    return records


def made_words(relations=("antonym", "country - capital")) -> pd.DataFrame:
    words, lines = " opposite the\n black contrast anti <b> inverse unlike negative not reverse contrary".split(" "), []
    for relation in relations:
        for vector, scale in {"FV": 0.06, "FFV from FV": 0.5}.items():
            for at, word in enumerate(words[1:]):
                lines.append(
                    [relation, vector, f" {word}", scale * 0.6**at, word in ("opposite", "inverse", "reverse")]
                )
    return pd.DataFrame(lines, columns=["relation", "vector", "token", "probability", "is_name"])


FRAME = made_frame()


def pick(row, name="all", part="score", measure="accuracy"):
    at = (FRAME.part == part) & (FRAME.row == row) & (FRAME.name == name) & (FRAME.measure == measure)
    return FRAME[at].iloc[0]
