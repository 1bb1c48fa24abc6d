"""What names a model: a bundled one, a folder, a GGUF file, or a name on the Hugging Face hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..ground.errors import InputError
from .bundled import BUNDLED, bundled_folder
from .gguf_checks import number_of_parts
from .gguf_header import read_header
from .gguf_model import converted

EXPECTED = f"{', '.join(map(repr, BUNDLED))}, the path of a model folder or .gguf file, or a Hugging Face name"


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `folder`: a Hugging Face folder, None for a name on the hub. `own_bos`: whether its tokenizer's BOS rule is the
    model's own; that of a GGUF file is, and for other folders and names TransformerLens has a rule.
    """

    name: str
    folder: Path | None
    own_bos: bool


def source_of(name: str | os.PathLike[str]) -> Source:
    """The source that `name` is of; see `load_model`. What is bundled, or a GGUF file, is converted first.

    Raises:
        InputError: `name` is neither a string nor a path, is the path of something other than a model, or of a GGUF
            file that cannot be converted; a bundled model cannot be had.
    """
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"{name!r} is not a model; give {EXPECTED}")
    if isinstance(name, str) and name in BUNDLED:
        return Source(name, bundled_folder(name), own_bos=True)
    path = Path(os.path.expanduser(name)).absolute()
    is_gguf = path.suffix.lower() == ".gguf" and not path.is_dir()
    begins_like_one = isinstance(name, os.PathLike) or name.startswith((".", "~")) or os.path.isabs(name)
    if not (is_gguf or begins_like_one or str(name).count("/") > 1 or path.exists()):
        return Source(str(name), None, own_bos=False)
    if (path / "config.json").is_file():
        return Source(path.name, path, own_bos=False)
    gguf = path if is_gguf or path.is_file() else _only_gguf(os.fspath(name), path)
    if not gguf.exists():
        raise InputError(f"{os.fspath(name)!r} is not a GGUF file: there is no such file; check the path")
    return Source(gguf.stem, converted(gguf), own_bos=True)


def _only_gguf(name: str, folder: Path) -> Path:
    """The GGUF file of a folder that holds one."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf") if folder.is_dir() else []
    if len(files) == 1 or files and number_of_parts(read_header(files[0])) > 1:
        return files[0]  # of a split model the conversion says what to do
    if files:
        raise InputError(
            f"{name!r} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}), and a model is made "
            "of one; give the path of that file"
        )
    problem = "it has no config.json and no .gguf file" if folder.is_dir() else "there is no such folder"
    raise InputError(
        f"{name!r} is not a model folder: {problem}; expected a folder that holds config.json, the weights and the "
        "tokenizer, as Hugging Face's save_pretrained writes them, or one .gguf file"
    )
