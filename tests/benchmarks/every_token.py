"""A vector at every token, where llama.cpp and repeng add it, beside the last prompt token, for which it is made.

    python -m tests.benchmarks.every_token [--model NAME] [--relations antonym,present-past] [--out FILE]

One vector is tuned for each relation at the last prompt token. It is then added in three ways: there; there and at each
token of the answer; at every token, prompt and answer. The strength of each way is the one that completes most of the
relation's validation words, 24 at most (the log-probability of their first answers decides between equal ones).
Reported are whole answers right on the test words, which had no part in it, and how far the next-token distribution
after neutral texts moves under the same vector, in the same way and at the same strength.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fv_lens.datasets.neutral import neutral_texts
from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.datasets.relation_files import load_relation
from fv_lens.engine.batches import batch, padded_texts
from fv_lens.engine.completion import completions
from fv_lens.engine.edits import Edit
from fv_lens.ground import scores
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.vectors.tuning import finetune

RELATIONS = "antonym,present-past,country-capital,singular-plural"
LAST, ANSWER, EVERY = WAYS = ("last prompt token", "last and answer tokens", "every token")
TOGETHER = 32  # answers in one forward
STRENGTHS = {
    LAST: (0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
    ANSWER: (0.25, 0.5, 0.75, 1.0, 1.5),
    EVERY: (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
}
MOST = 24  # validation words on which a strength is chosen


def where(way: str, mask: Tensor, begin: int) -> Tensor:
    """The tokens that get the vector, of rows whose prompts end in the column before `begin`."""
    column = torch.arange(mask.shape[1])
    first = {LAST: column == begin - 1, ANSWER: column >= begin - 1, EVERY: column >= 0}[way]
    return mask.bool() & first


def completed(lens, prompts, fv, way: str | None, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Whether any answer of each prompt is completed as a whole, and the log-probability of the first, in nats.

    Every answer is run behind its prompt in a full forward; right is what it is in `engine.completion`.
    """
    begin, width = prompts.tokens.shape[1], max(len(ids) for listed in prompts.answers for ids in listed)
    rows = [(i, ids) for i, listed in enumerate(prompts.answers) for ids in listed]
    behind = torch.tensor([[*ids, *[lens.pad_id] * (width - len(ids))] for _, ids in rows])
    real = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for _, ids in rows])
    owners = torch.tensor([i for i, _ in rows])
    tokens, mask = torch.cat([prompts.tokens[owners], behind], 1), torch.cat([prompts.mask[owners], real], 1)
    tiles = []
    for part in torch.arange(len(rows)).split(TOGETHER):
        at = None if way is None else where(way, mask[part], begin)
        hooks = [] if way is None else fv.hooks(lens.model, strength=strength, at=at)
        tiles.append(lens.logits(tokens[part], mask[part], hooks, last=width + 1).float())
    logits = torch.cat(tiles)
    ending, right, log_prob = lens.endings, np.zeros(len(prompts), bool), np.zeros(len(prompts))
    for row, (i, ids) in enumerate(rows):
        ahead, target = logits[row, : len(ids)], torch.tensor(ids)
        own = ahead.gather(1, target[:, None])[:, 0]
        best = ahead.scatter(1, target[:, None], -torch.inf).amax(1)
        after = logits[row, len(ids)]
        right[i] |= bool((own > best).all() and after[ending].max() > after[~ending].max())
        if ids is prompts.answers[i][0]:
            log_prob[i] = float((own - ahead.logsumexp(1)).sum())
    return right, log_prob


def divergence(lens, fv, way: str, strength: float) -> np.ndarray:
    """KL(with || without) of the next token after each neutral text, in nats."""
    tokens, mask = padded_texts(lens, neutral_texts())
    hooks = fv.hooks(lens.model, strength=strength, at=where(way, mask, mask.shape[1]))
    plain, moved = (lens.logits(tokens, mask, of)[:, 0].double().log_softmax(-1) for of in ([], hooks))
    return (moved.exp() * (moved - plain)).nan_to_num(0.0).sum(-1).numpy()


def check(lens, prompts, fv) -> None:
    """The engine, which adds at the last token alone, completes the same words."""
    measured = completions(lens, prompts, [[Edit(fv.layer, fv.vector)]])
    for row, way in enumerate((None, LAST)):
        right, log_prob = completed(lens, prompts, fv, way)
        assert (right == measured.right[:, row]).all()
        assert np.abs(log_prob - measured.log_prob[:, row]).max() < 1e-3


@torch.no_grad()
def measured_lines(model, names) -> tuple[list[str], dict[str, list[float]]]:
    """The lines of the table, one for each relation and way; and accuracy by way, relation after relation."""
    lens, lines, accuracies = lens_of(model), [], {way: [] for way in WAYS}
    for name in names:
        relation = load_relation(name)
        with torch.enable_grad():
            fv = finetune(model, relation, n_pairs=20)
        parts = relation.split()
        few = parts.validation.with_pairs(parts.validation.pairs[:MOST])
        validation, test = (batch(lens, with_demonstrations(part, part, 0)) for part in (few, parts.test))
        check(lens, test, fv)
        rights = {}
        for way in WAYS:
            quality = []
            for strength in STRENGTHS[way]:
                right, log_prob = completed(lens, validation, fv, way, strength)
                quality.append((right.mean(), log_prob.mean(), strength))
            best, _, strength = max(quality)
            rights[way], log_prob = completed(lens, test, fv, way, strength)
            accuracies[way].append(float(rights[way].mean()))
            lost = "" if way == LAST else scores.gain(rights[way], rights[LAST]).signed
            cells = (name, way, f"{strength:g}", f"{best:.2f}", scores.proportion(rights[way]), lost,
                     scores.mean(divergence(lens, fv, way, strength)))  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
            print(lines[-1], flush=True)
    return lines, accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--relations", default=RELATIONS)
    parser.add_argument("--out", type=Path, help="a file for the table, in Markdown")
    options = parser.parse_args()
    heading = ("relation", "added at", "strength", "validation", "whole answers right", "minus last", "KL, nats")
    table = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    print("\n".join(table), flush=True)
    lines, accuracies = measured_lines(load_model(options.model), options.relations.split(","))
    print({way: round(float(np.mean(values)), 3) for way, values in accuracies.items()})
    if options.out:
        options.out.write_text("\n".join([*table, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
