"""The library of vectors of a study of analogies: read from folders, or tuned for it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...datasets.relation_files import relation_names
from ...ground.errors import InputError
from ...models.lens import Model
from ...vectors.function_vector import FunctionVector
from ...vectors.tuning import finetune_all

Vectors = dict[str, FunctionVector]


def load_library(folder: Path) -> Vectors:
    """The vectors of a folder, by the relation of each; an InputError where there are none or two of one relation."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{str(folder)!r} has no vectors (*.safetensors); give the `vectors` folder of a `reproduce`.")
    vectors: Vectors = {}
    for file in files:
        fv = FunctionVector.load(file)
        name = fv.relation or file.stem
        if name in vectors:
            raise InputError(f"{str(folder)!r} has two vectors of {name!r}; keep one of them.")
        vectors[name] = fv
    return vectors


def load_libraries(folders: Sequence[Path]) -> tuple[Vectors, Vectors | None]:
    """One library of the tuned vectors of several folders, and one of the summed vectors of their `summed`.

    There are summed vectors only where every folder has them, all for one layer, since they are for comparison with
    the whole library.

    Raises:
        InputError: as `load_library`; two folders have vectors of one relation, or vectors that cannot be mixed.
    """
    tuned = [load_library(folder) for folder in folders]
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
    parts = [load_library(folder / "summed") for folder in folders if (folder / "summed").is_dir()]
    one_place = len({_place(vectors) for vectors in parts}) == 1 and len(parts) == len(folders)
    return _joined(tuned), _joined(parts) if one_place else None


def _place(vectors: Mapping[str, FunctionVector]) -> str:
    """Where the first vector belongs; `Library` compares those of one folder."""
    fv = next(iter(vectors.values()))
    return f"layer {fv.layer} ({fv.site}) of {fv.model!r}"


def _joined(libraries: Sequence[Vectors]) -> Vectors:
    return {name: fv for vectors in libraries for name, fv in vectors.items()}


def tuned_library(model: Model, folder: Path, tell: Callable[[str], None]) -> Vectors:
    """A vector of every bundled relation, tuned from zero and saved in the folder; read where all are there."""
    kept = load_library(folder) if any(folder.glob("*.safetensors")) else {}
    if set(kept) >= set(relation_names()):
        return kept
    tell(f"Tuning the library: {len(relation_names())} bundled relations, from zero")
    vectors = dict(finetune_all(model, relation_names()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, fv in vectors.items():
        fv.save(folder / f"{name}.safetensors")
    return vectors
