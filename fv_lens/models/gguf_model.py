"""GGUF files as Hugging Face folders in float32: `converted` makes one in the cache, once for what a file holds."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from ..ground.errors import InputError
from .cache import made_once, status
from .gguf_checks import EMBEDDING, check_header, check_vocabulary
from .gguf_config import complete, is_of_positions
from .gguf_header import Header, read_header
from .libraries import quiet, quoting
from .manifest import verified, write_manifest

CONVERSION = 2  # to be raised with each change of what a conversion writes, so that files are converted again
SAMPLES = ("hot", " hot  cold\n\nQ: A\tB", "Größe, 大きい 3.14 don't", "<s> </s> <|x|>")


def converted(gguf: Path) -> Path:
    """The folder that a GGUF file was converted to, made first if there is none for its content.

    Raises:
        InputError: the file is not a GGUF of a language model that transformers reads whole, or its tokenizer disagrees
            with the model; the cache cannot be written to.
    """
    header = read_header(gguf)
    check_header(header)
    with gguf.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    gigabytes = 4e-9 * sum(tensor.size for tensor in header.tensors.values()) + 0.1

    def make(scratch: Path, whole: Path) -> None:
        with status(f"Converting {gguf.name} to safetensors ({gigabytes:.1f} GB, once)"):
            convert(gguf, whole, {gguf.name: sha256})

    return verified(made_once(f"gguf-{CONVERSION}-{sha256}", gguf.name, gigabytes, make))


def convert(gguf: Path, folder: Path, source: Mapping[str, str], **facts: Any) -> None:
    """Write the model and tokenizer of a GGUF as a Hugging Face folder, in float32, with a manifest.

    Args:
        source, facts: as for `write_manifest`, which gets the file's quantisation as well.
    """
    header = read_header(gguf)
    check_header(header)
    with quiet():
        with quoting(str(gguf), "Give another GGUF file of the model, or its Hugging Face folder or name."):
            tokenizer, network = _loaded(header)
        folder.mkdir()
        # Not network.save_pretrained, which refuses a model that came from a GGUF.
        save_file(_parameters(network), folder / "model.safetensors", metadata={"format": "pt"})
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        shutil.copymode(folder / "config.json", folder / "model.safetensors")  # save_file's is for the owner alone
        _save_tokenizer(tokenizer, folder)
    kinds = Counter(tensor.kind_name for tensor in header.tensors.values())
    facts = {
        "conversion": CONVERSION, "architecture": header.architecture, "quantization": header.quantization,
        "tensors": dict(kinds), **facts,
    }  # fmt: skip
    write_manifest(folder, source, **facts)


def _loaded(header: Header) -> tuple[Any, Any]:
    """Tokenizer and network of a file, all of it, and nothing that is not in it."""
    # The whole path as the file's name: of a bare name transformers prefers one in the current folder.
    file = header.file.absolute()
    source: dict[str, Any] = {"gguf_file": str(file), "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
    config = transformers.AutoConfig.from_pretrained(file.parent, **source)
    check_vocabulary(header, len(tokenizer), header.tensors[EMBEDDING].shape[0])
    complete(header, config.get_text_config())
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **_dequantized(),
        **source,
    )
    network, report = loaded
    mismatched = [(name, list(there), list(here)) for name, there, here in report["mismatched_keys"]]
    problems = [f"{name} has shape {there}, and {here} is expected" for name, there, here in mismatched]
    problems += [f"{name} is missing" for name in report["missing_keys"]]
    if problems:
        raise InputError(
            f"{str(file)!r} holds other weights than a {header.architecture} model of its sizes has: {min(problems)}; "
            "give another GGUF file of the model, or its Hugging Face folder or name"
        )
    _check_all_used(header, network)
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    return tokenizer, network


def _dequantized() -> dict[str, Any]:
    """Settings without which newer versions of transformers may keep weights in blocks of integers."""
    config = getattr(transformers.utils.quantization_config, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _check_all_used(header: Header, network: Any) -> None:
    """Refuse a file with weights that the network does not take up; the reader passes over them without a word."""
    tied = network.config.get_text_config().tie_word_embeddings
    left_out = {"output.weight"} if tied else set()
    names = [name for name in header.tensors if name not in left_out and not is_of_positions(name)]
    held = sum(header.tensors[name].size for name in names)
    used = sum(parameter.numel() for parameter in _parameters(network).values())
    if held != used:
        raise InputError(
            f"{str(header.file)!r} holds {held} weights, and the {header.architecture} model that transformers makes "
            f"of it has {used}, so it would be another model; give the folder or hub name of the one it was made from"
        )


def _parameters(network: Any) -> dict[str, torch.Tensor]:
    """The network's tensors, each under its first name: the embedding's, where the unembedding is tied to it."""
    first: dict[int, str] = {}
    parameters = network.state_dict(keep_vars=True)
    for name, parameter in parameters.items():
        first.setdefault(id(parameter), name)
    return {name: parameters[name].detach().contiguous() for name in first.values()}


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer so that it gives the same ids when it is loaded again."""
    tokenizer.save_pretrained(folder)
    _settings(folder, lambda settings: settings.pop("model_type", None))  # in some versions, that of another network
    if not _agree(tokenizer, folder):
        # Its class would build it from the vocabulary again, by rules of its own: the general one reads what was saved.
        _settings(folder, lambda settings: settings.update(tokenizer_class="PreTrainedTokenizerFast"))
        if not _agree(tokenizer, folder):
            raise InputError("the tokenizer of the GGUF file gives other ids once saved; give the model's own folder")


def _settings(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the settings of a saved tokenizer."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    change(settings)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _agree(tokenizer: Any, folder: Path) -> bool:
    again = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    samples = [*SAMPLES, " ".join(tokenizer.all_special_tokens)]
    return all(tokenizer(text)["input_ids"] == again(text)["input_ids"] for text in samples)


def adds_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a BOS before each text, as the header of a GGUF file tells it to."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
