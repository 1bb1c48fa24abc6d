"""Saved files: equal content makes equal bytes, and a damaged one is refused by name, whatever the damage."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fv_lens.analogies.composition import OF_MAPS, Composition, Folded
from fv_lens.analogies.records import Settings
from fv_lens.datasets.prompts import FewShot, PromptTemplate
from fv_lens.engine.batches import batch
from fv_lens.ground import storage
from fv_lens.ground.errors import InputError
from fv_lens.ground.storage import written_whole
from fv_lens.studies.stages import Stages
from fv_lens.vectors import records
from fv_lens.vectors.effects import HeadEffects, mean_effects
from fv_lens.vectors.function_vector import FunctionVector

D_MODEL, SHAPE = 8, (2, 3, 4)
ABOUT = dict(
    model="tiny/llama", processing="raw", bos=True, relation="successor", data_hash="0a" * 32, split_seed=1,
    template=PromptTemplate().to_dict(), versions=storage.versions(),
)  # fmt: skip
TRAINING = dict(
    n_pairs=2, n_validation=1, chosen_step=2, validation_loss=2.5, losses=[3.5, 2.25],
    validation_losses=[[0, 3.0], [2, 2.5]], train_words=["w1", "w2"], validation_words=["w3"], learning_rate=0.05,
    word_answers=[["w2"], ["w3", "w4"], ["w4"]], first_token=False, shuffle=False, seed=0,
    layer_losses={"1": 2.5, "2": float("inf")},
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Lens:
    """Tokens of a prompt: one for each letter."""

    n_ctx, pad_id = 99, 0

    def tokens(self, text: str) -> list[int]:
        return list(text.encode())


def effects(relation: str = "successor") -> HeadEffects:
    prompts = batch(Lens(), [FewShot("w1", ("x", "yy")), FewShot("w22", ("z",))])
    about = {name: value for name, value in ABOUT.items() if name != "relation"} | {"relation": relation}
    about |= dict(n_shots=3, n_mean_prompts=5, only_correct=False, seed=0)
    small = 0.1 * noise(*SHAPE)
    return HeadEffects(small, 3 * small, torch.tensor([0.5, 0.25]), noise(3, 4, 2), 0.5, prompts, about)


def made() -> dict[str, object]:
    """One of every kind of file, with everything that such a file may have."""
    summed = FunctionVector(noise(D_MODEL), 2, heads=[(0, 1), (1, 3)], strength=2.0, **ABOUT)
    tuned = FunctionVector(
        noise(D_MODEL), 2, method="tuned", training=TRAINING, parents=[(2.0, summed.record)], **ABOUT
    )
    about = ABOUT | dict(relation=None, data_hash=None, split_seed=None)
    composite = FunctionVector(
        noise(D_MODEL), 2, method="composite", weights={"successor": 0.75, "other": 0.25}, source=("w1", "w2"),
        parents=[(0.5, tuned.record | {"training": None}), (0.5, summed.record)], **about,
    )  # fmt: skip
    parts = [
        Composition("posterior", 2.0, shared=noise(D_MODEL, seed=i), pair_steps=8, start=noise(D_MODEL, seed=9 + i))
        for i in range(4)
    ]
    tried = {"accuracy": 0.5, "log_prob": -1.5, "chosen": "shared alone"}
    left_out = tried | {"chosen": ["a", "b", "c"]}
    folds = Folded(parts[0], tuple(parts[1:]), {"a": 0, "b": 1, "c": 2}, tried | {"family left out": left_out})
    one = effects()
    return {
        "summed": summed, "tuned": tuned, "combined": 0.5 * summed - 2.0 * tuned, "composite": composite,
        "effects": one, "mean effects": mean_effects([one, effects("other")]), "folds": folds, "single": parts[0],
    }  # fmt: skip


MADE = made()
STAGE = ({"vectors": noise(3, D_MODEL)}, {"layer": 2, "broken": {}, "steps": [1, None]})
NAMES = [*MADE, "stage"]


def write(name: str, folder) -> object:
    """Save one kind of file; returns its path."""
    if name == "stage":
        Stages(folder, {"model": "tiny"}).run("stage", lambda: STAGE)
        return folder / "stage.safetensors"
    path = folder / "file.safetensors"
    MADE[name].save(path)
    return path


def read(name: str, path) -> object:
    if name == "stage":
        return Stages(path.parent, {"model": "tiny"}).run("stage", lambda: pytest.fail("it was there"))
    return type(MADE[name]).load(path)


def content(path) -> tuple[dict, dict]:
    """The tensors and the metadata."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


# What is saved comes back


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_comes_back(name, tmp_path):
    path = write(name, tmp_path)
    back = read(name, path)
    if name == "stage":
        assert torch.equal(back[0]["vectors"], STAGE[0]["vectors"]) and back[1] == STAGE[1]
        return
    back.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", NAMES)
def test_files_of_before_there_was_a_digest_are_read(name, tmp_path):
    path = write(name, tmp_path)
    tensors, text = content(path)
    record = json.loads(text["record"])
    record.pop("tensors", None)
    if name == "stage":
        record["seconds"] = 1.5
        (tmp_path / "timings.json").unlink()
    save_file(tensors, path, metadata={"kind": text["kind"], "format": "1", "record": json.dumps(record)})
    back = read(name, path)
    if name == "stage":
        stages = Stages(tmp_path, {"model": "tiny"})
        stages.run("stage", lambda: pytest.fail("it was there"))
        assert back[1] == STAGE[1] and stages.timings == {"stage": 1.5}
        return
    write(name, tmp_path)
    back.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_vectors_of_before_they_could_be_tuned_are_read(tmp_path):
    record = {name: part for name, part in MADE["summed"].record.items() if name not in records.LATER}
    text = {"kind": "fv_lens.FunctionVector", "format": "1", "record": json.dumps(record)}
    save_file({"vector": noise(D_MODEL)}, tmp_path / "fv", metadata=text)
    fv = FunctionVector.load(tmp_path / "fv")
    assert (fv.training, fv.weights, fv.source, fv.heads) == (None, None, (), ((0, 1), (1, 3)))


def test_vectors_of_before_kin_and_answers_were_recorded_are_read(tmp_path):
    """Those have a digest of their own."""
    record = {name: part for name, part in MADE["tuned"].record.items() if name not in ("aliases", "kin")}
    record["training"] = {name: part for name, part in record["training"].items() if name != "word_answers"}
    tensors, text = {"vector": MADE["tuned"].vector}, json.dumps(record)
    digest = storage._digest("FunctionVector", tensors, text)
    text = {"kind": "fv_lens.FunctionVector", "format": "1", "record": text, "sha256": digest}
    save_file(tensors, tmp_path / "fv", metadata=text)
    fv = FunctionVector.load(tmp_path / "fv")
    assert (
        fv.kin == fv.aliases == () and fv.training["train_words"] == ["w1", "w2"] and "word_answers" not in fv.training
    )


def test_schemas_have_the_fields_of_what_is_saved():
    assert records.Vector.model_fields.keys() == MADE["summed"].record.keys()
    assert Settings.model_fields.keys() - set(OF_MAPS) == MADE["single"].split()[1].keys()
    assert records.Template.model_fields.keys() == PromptTemplate().to_dict().keys()


# Equal content, equal bytes

PROGRAM = """
import sys, torch
from tests.ground.test_saved_files import NAMES, write
from pathlib import Path
for name in NAMES:
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True)
    write(name, folder)
"""


@pytest.mark.slow
def test_two_processes_write_equal_bytes(tmp_path):
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / seed)], check=True, env=environment)
    for name in NAMES:
        files = [path for seed in "123" for path in (tmp_path / seed / name).glob("*.safetensors")]
        assert len(files) == 3 and len({path.read_bytes() for path in files}) == 1, name


def test_times_are_kept_beside_the_stages_and_not_in_them(tmp_path):
    path = write("stage", tmp_path)
    assert "seconds" not in json.loads(content(path)[1]["record"])
    known = json.loads((tmp_path / "timings.json").read_text())
    assert list(known) == ["stage"] and known["stage"] >= 0
    for text in ("", "[1]", '{"stage": "long"}'):
        (tmp_path / "timings.json").write_text(text)
        stages = Stages(tmp_path, {"model": "tiny"})
        assert stages.run("stage", lambda: pytest.fail("it was there"))[1] == STAGE[1] and stages.timings == {}


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path):
    for text in ("old", "new é"):
        with written_whole(tmp_path / "page") as partial:
            partial.write_text(text, encoding="utf-8")
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "page") as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert (tmp_path / "page").read_bytes() == "new é".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


# Damage

MISSING = object()
HUGE = 10**400
WRONG = [MISSING, None, True, -3, HUGE, 2.5, float("nan"), float("inf"), "", "every", [], {}, [[]], [None], {"": None}]


def places(value: object, at: tuple = ()) -> list[tuple]:
    """The place of everything in a record, of a list the first and last item."""
    found = [at]
    if isinstance(value, dict):
        for key, part in value.items():
            found += places(part, (*at, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) - 1}):
            found += places(value[i], (*at, i))
    return found


def damaged(value: object, at: tuple, wrong: object) -> object:
    """The record with something else in one place."""
    if not at:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and wrong is MISSING:
        del copy[at[0]]
    else:
        copy[at[0]] = damaged(copy[at[0]], at[1:], wrong)
    return copy


def damages(record: dict) -> list[tuple[tuple, object]]:
    return [(at, wrong) for at in places(record) for wrong in WRONG if (at or wrong is not MISSING)]


def refuses(name: str, path, told: object) -> str:
    """The message with which a file is refused: it names the file, on one line."""
    try:
        read(name, path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error), (told, str(error))
        return str(error)
    except Exception as error:
        raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_record_with_any_field_damaged_is_refused(name, tmp_path):
    path = write(name, tmp_path)
    tensors, text = content(path)
    n = 0
    for at, wrong in damages(json.loads(text["record"])):
        record = json.dumps(damaged(json.loads(text["record"]), at, wrong))
        if record != text["record"]:
            save_file(tensors, path, metadata=text | {"record": record})
            assert refuses(name, path, (at, wrong)), (at, wrong)
            n += 1
    assert n > 40


# What a field may hold, so that no schema can refuse it: by the last name in its place.
TEXT = dict.fromkeys(
    ("site", "relation", "relations", "method", "separator", "prefix", "fv-lens", "transformer-lens", "transformers")
    + (
        "torch",
        "train_words",
        "validation_words",
        "word_answers",
        "source",
        "aliases",
        "kin",
        "texts",
        "words",
        "chosen",
    ),
    ["every"],
)
NUMBERS = dict.fromkeys(
    ("strength", "losses", "validation_losses", "weight", "scale", "pair_scale", "log_prob"), [-3, 2.5]
)
SWITCHES = dict.fromkeys(("bos", "first_token", "shuffle", "only_correct", "center"), [True])
NULLABLE = ("model", "bos", "relation", "data_hash", "split_seed", "template", "training", "frozen_rms")
MORE = {
    "model": ["", "every"], "separator": [""], "split_seed": [HUGE], "seed": [HUGE], "heads": [[], MISSING],
    "parents": [[], MISSING, -3, 2.5], "learning_rate": [2.5], "temperature": [2.5], "answers": [MISSING],
    "layer_losses": [MISSING], "1": [MISSING, HUGE, float("inf")], "2": [MISSING, HUGE, 2.5],
    "validation_losses": [MISSING], "word_answers": [MISSING, []], "aliases": [MISSING, []], "kin": [MISSING, []],
    # Of composites that were not fitted, or before their tensors were listed.
    "record": [{}, {"": None}], "family left out": [MISSING, {}, {"": None}], "tensors": [MISSING],
    **dict.fromkeys(("accuracy", "log_prob", "chosen", "a", "b", "c"), [MISSING]),
}  # fmt: skip


def may_be(at: tuple, wrong: object) -> bool:
    name = next((part for part in reversed(at) if isinstance(part, str)), "")
    values = [x for known in (TEXT, NUMBERS, SWITCHES, MORE) for x in known.get(name, [])]
    values += [None] if name in NULLABLE else []
    return any(x is wrong or (x == wrong and type(x) is type(wrong)) for x in values)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "stage"])
def test_a_field_that_cannot_be_is_named_also_where_the_whole_file_agrees_with_itself(name, tmp_path):
    """The digest of these files is right: only their schema can tell."""
    path = write(name, tmp_path)
    tensors, text = content(path)
    kind, whole = text["kind"].removeprefix("fv_lens."), json.loads(text["record"])
    for at, wrong in damages(whole):
        record = damaged(whole, at, wrong)
        if not at or json.dumps(record) == text["record"] or may_be(at, wrong):
            continue
        storage.save(path, kind, tensors, record)
        message = refuses(name, path, (at, wrong))
        assert message, (at, wrong)
        assert "record" in message or str(at[0]) in message, (at, wrong, message)


def test_a_stage_holds_a_record_and_nothing_strange(tmp_path):
    """What a step wrote is its own affair and the digest's; that it is an object is not."""
    path = write("stage", tmp_path)
    records = [{"record": wrong} for wrong in WRONG[1:] if not isinstance(wrong, dict)]
    records += [{"record": {}, "seconds": wrong} for wrong in WRONG[1:] if wrong not in (2.5, HUGE)]
    records += [{"record": {}, "strange": 1}, {}, {"seconds": 1.0}]
    for record in records:
        storage.save(path, "Stage", STAGE[0], record)
        assert refuses("stage", path, record), record


def tensor_damages(tensors: dict) -> dict[str, dict]:
    """Name -> tensors with one thing wrong."""
    found: dict[str, dict] = {"none": {}, "one more": tensors | {"extra": torch.ones(2)}}
    for name, x in tensors.items():
        rest = {other: part for other, part in tensors.items() if other != name}
        found[f"{name} missing"] = rest
        found[f"{name} renamed"] = rest | {f"{name}s": x}
        found[f"{name} empty"] = rest | {name: x[:0]}
        found[f"{name} short"] = rest | {name: x[:-1]}
        found[f"{name} short at its end"] = rest | {name: x[..., :-1].contiguous()}
        found[f"{name} deep"] = rest | {name: x[None]}
        found[f"{name} flat"] = rest | {name: x.flatten()[0]}
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool, torch.uint8):
            if dtype != x.dtype:
                found[f"{name} {dtype}"] = rest | {name: x.to(dtype)}
        for value in (float("nan"), float("inf"), -float("inf")) if x.is_floating_point() else (-1, 2**40):
            bad = x.clone()
            bad.view(-1)[-1] = value
            found[f"{name} {value}"] = rest | {name: bad}
    return found


# Sizes that one tensor alone has, and token ids that no tokenizer has.
FREE = {"vector short", "vector short at its end", "mean_z short at its end", "batch.tokens 1099511627776"}


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("agrees", [False, True], ids=["edited", "schema alone"])
@pytest.mark.parametrize("name", NAMES)
def test_damaged_tensors_are_refused(name, agrees, tmp_path):
    path = write(name, tmp_path)
    tensors, text = content(path)
    for what, wrong in tensor_damages(tensors).items():
        if not agrees:
            save_file(wrong, path, metadata=text)
        elif name == "stage" or what in FREE:
            continue
        else:
            storage.save(path, text["kind"].removeprefix("fv_lens."), wrong, json.loads(text["record"]))
        assert refuses(name, path, what), what


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", NAMES)
def test_one_bit_that_differs_is_noticed(name, tmp_path):
    path = write(name, tmp_path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), max(1, (len(whole) - start) // 20)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert refuses(name, path, place)


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("name", NAMES)
def test_another_kind_or_record_is_refused(name, tmp_path):
    path = write(name, tmp_path)
    tensors, text = content(path)
    records = ["", "null", "[]", "3", '"x"', "{", "{}", "[" * 9999, '{"a": 1, "a": 2}', "NaN", "\x00"]
    others = []
    for other in NAMES:
        if other != name:
            (tmp_path / other).mkdir()
            others.append(content(write(other, tmp_path / other))[1])
    records += [other["record"] for other in others]
    # A key twice, of which Python's own reader keeps the last.
    records.append(text["record"][:-1] + ", " + text["record"][1:])
    texts = [text | {"record": record} for record in records if record != text["record"]]
    texts += [{key: value for key, value in text.items() if key != name} for name in ("kind", "format", "record")]
    texts += [text | {"kind": kind} for kind in ("", "fv_lens.", "FunctionVector", "fv_lens.Nothing", "other")]
    texts += [text | {"format": found} for found in ("", "0", "99", "null")]
    texts += [text | {"kind": other["kind"]} for other in others if other["kind"] != text["kind"]]
    texts += [text | {"sha256": digest} for digest in ("", "0" * 64)]
    for wrong in texts:
        for digest in (wrong, {key: value for key, value in wrong.items() if key != "sha256"}):
            if digest.keys() == text.keys() - {"sha256"} and digest == {k: text[k] for k in digest}:
                continue  # a whole file of before there was a digest
            same = digest.get("kind") == text["kind"] and digest.get("record") in {x["record"] for x in others}
            if "sha256" not in digest and same and name != "stage":
                continue  # another vector's record with this one's numbers: without a digest, nobody can tell
            save_file(tensors, path, metadata=digest)
            assert refuses(name, path, digest), digest


def test_a_key_that_occurs_twice_is_named(tmp_path):
    path = write("summed", tmp_path)
    tensors, text = content(path)
    text["record"] = text["record"].replace('"layer": 2', '"layer": 2, "layer": 3')
    save_file(tensors, path, metadata=text)
    with pytest.raises(InputError, match=r"file\.safetensors.: the key 'layer' occurs twice"):
        FunctionVector.load(path)


def test_fields_are_named_with_their_place(tmp_path):
    path = write("tuned", tmp_path)
    tensors, text = content(path)
    for at, wrong, told in [
        (("token",), "every", r"field 'token' is 'every'.*'last'"),
        (("layer",), MISSING, "field 'layer' is missing"),
        (("heads",), [[1, -1]], r"field 'heads.0.1' is -1"),
        (("parents", 0, 1, "strength"), float("nan"), r"field 'parents.0.1.strength' is nan.*finite"),
        (("training", "losses", 0), "x", r"field 'training.losses.0' is 'x'.*number"),
        (("template", "question"), "no field", r"field 'template' is .*it takes \{word\}"),
    ]:
        storage.save(path, "FunctionVector", tensors, damaged(json.loads(text["record"]), at, wrong))
        with pytest.raises(InputError, match=rf"^'{path}': {told}"):
            FunctionVector.load(path)
    storage.save(path, "FunctionVector", tensors, json.loads(text["record"]) | {"strange": 1})
    with pytest.raises(InputError, match="field 'strange' is 1"):
        FunctionVector.load(path)


def test_a_fold_without_its_tensor_is_refused_also_in_older_files(tmp_path):
    path = write("folds", tmp_path)
    tensors, text = content(path)
    record = json.loads(text["record"])
    del record["tensors"]
    for name in ("shared.3", "start.0"):
        rest = {other: x for other, x in tensors.items() if other != name}
        save_file(rest, path, metadata={"kind": text["kind"], "format": "1", "record": json.dumps(record)})
        with pytest.raises(InputError, match=f"the tensor '{name}' is missing"):
            Folded.load(path)


@pytest.mark.slow
def test_parents_that_nest_deeply_are_checked_without_recursion(tmp_path):
    fv = MADE["summed"]
    for _ in range(200):
        fv = replace(MADE["tuned"], training=None, parents=[(1.0, fv.record)])
    fv.save(tmp_path / "fv")
    assert FunctionVector.load(tmp_path / "fv").record == fv.record


def test_what_would_not_load_is_not_saved(tmp_path):
    fv = replace(MADE["summed"], template={"question": "{word}"})
    with pytest.raises(InputError, match="This FunctionVector cannot be saved: field 'template.answer' is missing"):
        fv.save(tmp_path / "fv")
    assert not list(tmp_path.iterdir())


# Heads that a model does not have


def absent(effects_of: HeadEffects, layer: object, head: object) -> dict:
    parts = {name: getattr(effects_of, name).clone() for name in ("values", "log_prob_values", "mean_z")}
    for name in ("values", "log_prob_values"):
        parts[name][:, layer, head] = float("nan")
    parts["mean_z"][layer, head] = float("nan")
    return parts


@pytest.mark.parametrize(("layer", "head"), [(0, slice(None)), (2, 1), (slice(1, 3), 0)], ids=str)
def test_heads_that_do_not_exist_are_nan_throughout_and_come_back(layer, head, tmp_path):
    whole = MADE["effects"]
    without = replace(whole, **absent(whole, layer, head))
    without.save(tmp_path / "effects")
    back = HeadEffects.load(tmp_path / "effects")
    for name in ("values", "log_prob_values", "mean_z"):
        assert getattr(back, name).equal(getattr(without, name)) or torch.equal(
            getattr(back, name).nan_to_num(99), getattr(without, name).nan_to_num(99)
        )
    for name in ("values", "log_prob_values", "mean_z"):
        for value in (0.5, float("inf")):
            parts = absent(whole, layer, head)
            place = parts[name].isnan().nonzero()[0].tolist()
            parts[name][tuple(place)] = value
            with pytest.raises(InputError, match=r"[Hh]ead \([0-2], [0-3]\)"):
                replace(whole, **parts)


def test_nan_elsewhere_is_refused():
    whole = MADE["effects"]
    for name, at in (("values", (0, 1, 2)), ("log_prob_values", (1, 2, 3)), ("mean_z", (1, 2, 0)), ("base", (0,))):
        for value in (float("nan"), float("inf")):
            part = getattr(whole, name).clone()
            part[at] = value
            with pytest.raises(InputError, match="nan|inf"):
                replace(whole, **{name: part})
    with pytest.raises(InputError, match="Every effect is NaN"):
        replace(whole, **absent(whole, slice(None), slice(None)))
