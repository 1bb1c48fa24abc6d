"""Settings of composites: what they may be, their names, folds, and files."""

import math
from dataclasses import fields, replace

import pytest
import torch

from fv_lens.analogies.composition import METHODS, WEIGHTINGS, Composition, Folded, composition
from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FULL = Composition("gain", 0.5, True, 0.25, noise(32), 8, 0.75, noise(32, seed=1), 1)
OTHERS = [
    *METHODS.values(), FULL,
    Composition("none", shared=noise(32, seed=2)), Composition("none", start=noise(32, seed=3)),
]  # fmt: skip


def same(one: Composition, other: Composition) -> bool:
    """Whether all settings are equal, bit by bit."""
    for part in fields(Composition):
        a, b = getattr(one, part.name), getattr(other, part.name)
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b):
            return False
    return True


# Settings


def test_every_weighting_has_a_name():
    assert {how.weighting for how in METHODS.values()} == set(WEIGHTINGS) - {"affine"}, "which has to be fitted"


def test_the_library_is_used_unless_it_has_no_weight():
    for how in METHODS.values():
        assert how.uses_library == (how.weighting != "none")
        assert not replace(how, scale=0.0).uses_library


def test_settings_are_found_by_name_or_given_or_the_whole_of_folds():
    for name, how in METHODS.items():
        assert composition(name) is how is composition(how)
    assert composition(Folded(FULL, (Composition("single"),), {"a": 0})) is FULL


@pytest.mark.parametrize("how", ["postrior", "", 3, None, ["posterior"], {"posterior": 1}], ids=str)
def test_an_unknown_method_is_refused(how):
    with pytest.raises(
        InputError, match=r"^how is .*; give a Composition, or one of posterior, gain, single best, .*\.$"
    ):
        composition(how)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(weighting="mean"),
            "weighting is 'mean'; choose from posterior, gain, single, uniform, gradient, affine, none.",
        ),
        (dict(weighting="single best"), "weighting is 'single best'; choose from"),
        (dict(temperature=0.0), "temperature is 0.0; give a number above 0."),
        (dict(temperature=-1.0), "temperature is -1.0; give a number above 0."),
        (dict(temperature=math.nan), "temperature is nan; give a finite number"),
        (dict(temperature=math.inf), "temperature is inf; give a finite number"),
        (dict(scale=math.nan), "scale is nan; give a finite number"),
        (dict(scale=-math.inf), "scale is -inf; give a finite number"),
        (dict(pair_scale=math.nan), "pair_scale is nan; give a finite number"),
        (dict(pair_steps=-1), "pair_steps is -1; give a whole number of at least 0"),
        (dict(n_shots=2), "n_shots is 2; a composite is for a prompt with 0 or 1 demonstration."),
        (dict(n_shots=-1), "n_shots is -1; a composite is for"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(InputError) as refused:
        Composition(**wrong)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


# Folds


def test_a_family_takes_the_settings_of_the_fold_that_has_not_seen_it():
    folded = Folded(FULL, (METHODS["posterior"], METHODS["uniform"]), {"opposite": 1, "young": 0, "past": 1})
    assert [folded.of(family) for family in ("opposite", "young", "past")] == [
        METHODS["uniform"], METHODS["posterior"], METHODS["uniform"],
    ]  # fmt: skip
    assert folded.of("colour") is FULL is folded.of(None) and Folded(FULL).of("opposite") is FULL


# Files


@pytest.mark.parametrize("how", OTHERS, ids=lambda how: how.weighting)
def test_settings_come_back_as_they_were(how, tmp_path):
    how.save(tmp_path / "how.safetensors")
    back = Composition.load(tmp_path / "how.safetensors")
    assert same(back, how) and not same(back, replace(how, scale=how.scale + 1))


def test_folds_come_back_as_they_were(tmp_path):
    record = {"log_prob": -1.5, "chosen": "shared alone", "chosen, family left out": ["a", "b"]}
    folded = Folded(FULL, tuple(OTHERS), {"opposite": len(OTHERS) - 1, "young": 0}, record)
    folded.save(tmp_path / "how.safetensors")
    back = Folded.load(tmp_path / "how.safetensors")
    assert same(back.whole, FULL) and len(back.folds) == len(OTHERS)
    assert all(same(mine, how) for mine, how in zip(back.folds, OTHERS))
    assert (back.fold_of, back.record) == (folded.fold_of, record)
    assert same(back.of("opposite"), OTHERS[-1]) and same(back.of("young"), OTHERS[0])
    assert same(Composition.load(tmp_path / "how.safetensors"), FULL), "of folds, the whole"


def test_half_precision_comes_back_as_float32(tmp_path):
    Composition(shared=noise(32).half()).save(tmp_path / "how.safetensors")
    assert torch.equal(Composition.load(tmp_path / "how.safetensors").shared, noise(32).half().float())


@pytest.mark.parametrize("kind", [Composition, Folded])
def test_another_file_is_refused(kind, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(InputError, match="^No file .*file.safetensors.; expected a Composition"):
        kind.load(path)
    path.write_text("not tensors")
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        kind.load(path)
    FULL.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        kind.load(path)
    FunctionVector(noise(32), 1).save(path)
    with pytest.raises(
        InputError,
        match="holds fv_lens.FunctionVector, not fv_lens.Composition; give the path of a saved Composition.$",
    ):
        kind.load(path)
    FULL.save(path)
    with pytest.raises(
        InputError,
        match="holds fv_lens.Composition, not fv_lens.FunctionVector; give the path of a saved FunctionVector.$",
    ):
        FunctionVector.load(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="^Cannot write .*nowhere"):
        FULL.save(tmp_path / "nowhere" / "how.safetensors")
