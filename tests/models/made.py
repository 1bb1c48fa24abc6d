"""Tiny models on disk, and what lies in a cache."""

import os
import shutil
from pathlib import Path

import torch

from fv_lens.models.manifest import write_manifest

from .. import tiny


def save(folder: Path, name: str = "llama", **settings) -> Path:
    """A tiny random model of one architecture, with its tokenizer, as a Hugging Face folder."""
    torch.manual_seed(0)
    network = tiny.ARCHITECTURES[name]()
    if settings:
        network = type(network)(type(network.config)(**network.config.to_dict() | settings))
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    network.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def whole(folder: Path, source: dict[str, str] | None = None, **settings) -> Path:
    """A tiny model as a conversion leaves it, with a manifest."""
    write_manifest(save(folder, **settings), source or {})
    return folder


def logits(model) -> torch.Tensor:
    ids = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).float()


def left(cache: Path) -> list[str]:
    """What lies in the cache, without the locks' empty files."""
    return sorted(name for name in os.listdir(cache) if not name.endswith(".lock"))


def scratch(cache: Path) -> list[str]:
    """Folders that conversions which are under way, or were killed, have in the cache."""
    return [name for name in left(cache) if name.startswith(".")]


def put(wheel: Path, cache: Path) -> Path:
    cache.mkdir(exist_ok=True)
    return Path(shutil.copy(wheel, cache))
