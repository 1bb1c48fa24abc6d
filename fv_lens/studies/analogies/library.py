"""The library of vectors of a study of analogies: read from folders, or tuned for it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...datasets.kinship import Gathered, unite
from ...datasets.published import Published
from ...datasets.relation_files import load_relation, relation_names
from ...ground.errors import InputError
from ...models.identity import Identity, identity_of
from ...models.lens import Model, lens_of
from ...vectors.function_vector import FunctionVector
from ...vectors.library import Library
from ...vectors.tuning import finetune_all

Vectors = dict[str, FunctionVector]


def load_libraries(folders: Sequence[Path], model: Model | None = None) -> tuple[Vectors, Vectors | None]:
    """One library of the tuned vectors of several folders, and one of the summed vectors of their `summed`.

    There are summed vectors only where every folder has them, all for one layer, since they are for comparison with
    the whole library.

    Raises:
        InputError: as `Library.load`; two folders have vectors of one relation, or vectors that cannot be mixed; the
            vectors were made on other weights than those of the model.
    """
    identity: Identity | None = None

    def load(folder: Path) -> Vectors:
        nonlocal identity
        library = Library.load(folder)
        if model is not None and library.identity is not None:
            identity = identity or identity_of(lens_of(model))  # hashing the weights takes long; once is enough
            library.identity.check(identity, f"The library in {str(folder)!r}")
        return dict(library)

    tuned = [load(folder) for folder in folders]
    owner: dict[str, Path] = {}
    for folder, vectors in zip(folders, tuned):
        for name in vectors:
            if name in owner:
                raise InputError(
                    f"{str(owner[name])!r} and {str(folder)!r} both have a vector of {name!r}; give one of the "
                    "folders, or move one of the two files elsewhere."
                )
            owner[name] = folder
        if (place := _place(vectors)) != (expected := _place(tuned[0])):
            raise InputError(
                f"{str(folders[0])!r} has vectors for {expected} and {str(folder)!r} for {place}; a library takes "
                "vectors of one model and layer, such as `finetune_all(model, relations, layer=...)` tunes."
            )
    parts = [load(folder / "summed") for folder in folders if (folder / "summed").is_dir()]
    one_place = len({_place(vectors) for vectors in parts}) == 1 and len(parts) == len(folders)
    return _joined(tuned), _joined(parts) if one_place else None


def _place(vectors: Mapping[str, FunctionVector]) -> str:
    """Where the first vector belongs; `Library` compares those of one folder."""
    fv = next(iter(vectors.values()))
    return f"layer {fv.layer} ({fv.site}) of {fv.model!r}"


def _joined(libraries: Sequence[Vectors]) -> Vectors:
    return {name: fv for vectors in libraries for name, fv in vectors.items()}


def relations_for(sets: Sequence[Published]) -> Gathered:
    """The relations of a library: the bundled ones, and those of sets that are not among them."""
    bundled = [load_relation(name) for name in relation_names()]
    return unite([("bundled", bundled), *sets])


def tuned_library(model: Model, folder: Path, tell: Callable[[str], None], sets: Sequence[Published] = ()) -> Vectors:
    """A vector of every relation of `relations_for`, tuned from zero and saved in the folder; read where all are there.

    A relation of a set that cannot be tuned, mostly for want of pairs, has none.
    """
    wanted = relations_for(sets)
    kept = dict(Library.load(folder)) if any(folder.glob("*.safetensors")) else {}
    if set(kept) >= set(relation_names()):
        return kept
    if wanted.left_out:
        same = ", ".join(f"{name} ({other})" for name, other in wanted.left_out.items())
        tell(f"Left out, as half of their pairs or more are those of another relation: {same}")
    tell(f"Tuning the library from zero: {len(wanted.relations)} relations")
    with warnings.catch_warnings():
        if sets:
            warnings.simplefilter("ignore", UserWarning)  # of small relations; those without a vector are told
        tuned = finetune_all(model, dict(wanted.relations))
    for error in tuned.errors.values():
        tell(f"Without a vector: {error}")
    vectors = dict(tuned)
    if sets:
        vectors = {name: replace(fv, aliases=wanted.aliases[name], kin=wanted.kin[name]) for name, fv in tuned.items()}
    last_first = {name: vectors[name] for name in reversed(list(vectors))}
    Library(last_first).save(folder, model)  # the bundled ones, of which all are looked for, are written last
    return vectors
