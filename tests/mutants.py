"""Mutants: one wrong line at a time, in a copy of the package, and the tests that must notice.

`python -m tests.mutants` prints each and whether a test failed, in about four minutes on two cores; words behind it
choose mutants by file or name. `tests/test_mutation.py` breaks the engine from within, as part of the suite.
"""

import contextlib
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# Imported once, before processes are forked; fv_lens itself is not, for each process has another.
HEAVY = ("torch", "transformers", "transformer_lens.model_bridge", "scipy.stats", "sklearn", "pandas", "plotly", "peft")


class Mutant(NamedTuple):
    name: str
    file: str  # within fv_lens
    right: str  # stands in the file once
    wrong: str
    tests: str  # within tests: files, or tests by their node ids, with spaces between


MUTANTS = [
    # The engine
    Mutant("rows are born at their last edit", "engine/edits.py",
           "min((edit.layer for edit in whatif)", "max((edit.layer for edit in whatif)", "engine/test_whatif.py"),
    Mutant("of two vectors in one layer one is added", "engine/edits.py",
           "accumulate=True", "accumulate=False", "engine/test_whatif.py"),
    Mutant("results of later chunks go to the first rows", "engine/whatif.py",
           "1 + start + plan.order[None]", "1 + plan.order[None]",
           "engine/test_whatif.py::test_few_rows_at_a_time_give_the_same_and_are_never_exceeded"),
    Mutant("the residual stream of the first token", "engine/whatif.py",
           "kept.__setitem__(layer, x[:, -1].float().cpu())", "kept.__setitem__(layer, x[:, 0].float().cpu())",
           "studies/reproduce/test_steps.py::test_the_mean_difference_is_that_of_single_prompts"),
    Mutant("a rank too many", "engine/completion.py",
           "- behind - level.sum(1)).long()", "- behind - level.sum(1) + 1).long()", "engine/test_completion.py"),
    Mutant("an answer need not end", "engine/completion.py",
           "(ending > other)", "(ending == ending)", "engine/test_completion.py"),
    Mutant("gradients of sums, not of means", "engine/gradients.py",
           "slope *= weights[i : i + TILE, None]", "slope *= 1.0", "engine/test_gradients.py"),
    # Libraries
    Mutant("weights are not compared", "models/identity.py",
           "self.weights != other.weights", "not self.weights", "vectors/test_library.py"),
    Mutant("scores of a vector that was replaced stay", "vectors/library.py",
           "self.measured.of(self.keys() - other.keys())", "self.measured", "vectors/test_library.py"),
    Mutant("an exchanged file is read", "vectors/sharing/files.py",
           "if _sha256(file) != entry.sha256:", "if not entry.sha256:", "vectors/test_library.py"),
    Mutant("a text is written with the vector at the token before the last", "engine/sequences.py",
           "marked[:, at] = True", "marked[:, at - 1] = True",
           "engine/test_sequences.py::test_every_form_gives_the_same"),
    # Tuning and choosing
    Mutant("the step is chosen by the train loss", "vectors/optimizer.py",
           "loss = mean_by_owner(check, check.losses(vectors))", "loss = mean_by_owner(train, train.losses(vectors))",
           "vectors/test_tuning.py"),
    Mutant("the start of the worst strength", "vectors/optimizer.py",
           ".nan_to_num(nan=torch.inf).argmin(0)", ".nan_to_num(nan=-torch.inf).argmax(0)",
           "vectors/test_tuning.py::test_a_starts_strength_is_that_of_lowest_validation_loss"),
    Mutant("steps that forget the size of the stream", "vectors/optimizer.py",
           '"lr": rate * size', '"lr": rate', "vectors/test_tuning.py"),
    Mutant("a sweep without strength", "vectors/sweeps.py",
           "vector=strength * vector.vector)", "vector=vector.vector)", "vectors/test_sweeps.py"),
    Mutant("a choice by log-probability before accuracy", "vectors/sweeps.py",
           "ordered(self.accuracy, self.log_probs.mean(0))", "ordered(self.log_probs.mean(0), self.accuracy)",
           "vectors/test_sweeps.py::test_accuracy_comes_before_log_probability"),
    Mutant("effects with the wrong sign", "vectors/mediation.py",
           "after.exp() - before.exp()", "before.exp() - after.exp()", "vectors/test_effects.py"),
    Mutant("a patch without strength", "vectors/handles.py",
           "(self.strength * vector)", "vector", "vectors/test_patching.py"),
    Mutant("on a plain model the block after the vector's own", "models/network.py",
           "enumerate(self.blocks)", "enumerate(self.blocks[1:])", "vectors/test_applying.py"),
    Mutant("a control vector of the next block", "vectors/formats/control_vectors.py",
           'f"{DIRECTION}{layer}", vector', 'f"{DIRECTION}{layer + 1}", vector', "vectors/test_formats.py"),
    Mutant("directions are read as of the block before", "vectors/formats/control_vectors.py",
           "directions[int(layer)] =", "directions[int(layer) - 1] =",
           "vectors/test_formats.py::test_a_direction_is_of_the_block_of_its_number"),
    Mutant("changed numbers keep the record of the old ones", "vectors/formats/control_vectors.py",
           'part.get("sha256") != vector.sha256', 'part.get("sha256") is None',
           "vectors/test_formats.py::test_numbers_that_were_changed_are_not_given_their_old_record"),
    Mutant("a layer from the last is one too low", "vectors/formats/imported.py",
           "layer += target.n_layers", "layer += target.n_layers - 1",
           "vectors/test_formats.py::test_a_negative_layer_counts_from_the_last"),
    # The harness
    Mutant("the vector at the first token of the continuation", "evaluation/harness/model.py",
           "slice(length - n_targets, length - n_targets + 1)", "slice(length - n_targets + 1, length - n_targets + 2)",
           "evaluation/harness/test_log_likelihoods.py::test_choices_of_one_token_share_a_forward"),
    # Composition
    Mutant("tokens of unlike histories share an output", "evaluation/baselines/training.py",
           "known.setdefault((before, of_row[at])", "known.setdefault((None, of_row[at])",
           "evaluation/test_baselines.py::test_tokens_have_the_same_history_whatever_padding_stands_before"),
    Mutant("the map of a fold is fitted on its own family", "analogies/fit_affine.py",
           "self.folds.fold(question) != fold", "self.folds.fold(question) == fold",
           "analogies/test_affine.py::test_a_map_sees_the_analogies_of_other_families_alone_and_each_once"),
    Mutant("a posterior that cools the wrong way", "analogies/compose.py",
           "(hidden / how.temperature)", "(hidden * how.temperature)",
           "analogies/test_compose.py::test_the_posterior_is_the_softmax_of_the_pairs_log_probabilities"),
    Mutant("what lowers the probability gains as well", "analogies/compose.py",
           "(scores - plain).clamp(min=0)", "(scores - plain).abs()",
           "analogies/test_compose.py::test_a_gain_is_over_no_vector_and_in_proportion"),
    Mutant("the centre of the whole library, left-out vectors included", "analogies/compose.py",
           "weights - flat / flat.sum(1, keepdim=True)", "weights - 1 / flat.shape[1]",
           "analogies/test_library.py::test_what_is_left_out_truly_is"),
    Mutant("pair parts of the most steps", "analogies/compose.py",
           "self._parts[key][steps]", "self._parts[key][-1]",
           "analogies/test_compose.py::test_what_several_settings_share_is_computed_once"),
    # Statistics
    Mutant("a quantile for one side", "ground/scores.py",
           "stats.t.ppf((1 - level) / 2, n - 1)", "stats.t.ppf(1 - level, n - 1)", "ground/test_scores.py"),
    Mutant("Wilson's interval without 1/n", "ground/scores.py",
           "z**2 / (4 * n**2)", "z**2 / 4", "ground/test_scores.py"),
    Mutant("permutations that move rows alone", "evaluation/rank_correlation.py",
           "predicted[orders[:, rows], orders[:, columns]]", "predicted[orders[:, rows], columns]",
           "evaluation/test_rank_correlation.py::test_mantels_p_is_that_of_all_orders_of_the_relations"),
]  # fmt: skip


def copied(mutant: Mutant, folder: Path) -> None:
    """The package and its tests, with the mutant's line."""
    for part in ("fv_lens", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "fv_lens" / mutant.file
    text = file.read_text(encoding="utf-8")
    if (n := text.count(mutant.right)) != 1:
        raise RuntimeError(f"{mutant.right!r} stands {n} times in {mutant.file}; mend the mutant.")
    file.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")


def tried(mutant: Mutant) -> tuple[Mutant, str, float]:
    """The test that failed first; "" if the mutant survives."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name).resolve(), Path(name, "log")
        copied(mutant, folder)
        os.chdir(folder)
        sys.path[:] = [str(folder), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        for module in [module for module in sys.modules if module.split(".")[0] in ("fv_lens", "tests")]:
            del sys.modules[module]
        with log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            tests = [str(folder / "tests" / test) for test in mutant.tests.split()]
            code = pytest.main(["--all", "-x", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *tests])
        if not Path(sys.modules["fv_lens"].__file__).is_relative_to(folder):
            raise RuntimeError("fv_lens was not imported from the copy.")
        text = log.read_text()
        failed = re.findall(r"^FAILED tests/(\S+)", text, re.M)
        if code not in (0, 1) or (code == 1 and not failed):
            raise RuntimeError(f"{mutant.name}: the tests could not be run.\n{text[-2000:]}")
        return mutant, failed[0] if failed else "", time.monotonic() - began


def main(wanted: list[str]) -> int:
    mutants = [one for one in MUTANTS if not wanted or any(word in f"{one.name} {one.file}" for word in wanted)]
    for module in HEAVY:
        importlib.import_module(module)
    survive = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for mutant, killer, seconds in pool.imap(tried, mutants, chunksize=1):
            survive += not killer
            fate = f"killed by {killer}" if killer else "SURVIVES"
            print(f"{mutant.file}: {mutant.name}: {fate} ({seconds:.0f} s)", flush=True)
    print(f"{len(mutants) - survive} of {len(mutants)} are killed.")
    return 1 if survive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
