"""Where `load_model` puts a model: on one device, or spread over several, as Hugging Face and accelerate do it."""

import importlib.metadata
import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.multi_gpu import resolve_device_map
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

from ..ground.errors import InputError, whole_number
from .libraries import first_line, quiet

Device = str | torch.device
DeviceMap = str | Mapping[str, str | int | torch.device]
MaxMemory = Mapping[int | str, int | str]


@dataclass(frozen=True)
class Placement:
    """One `device`, or what Hugging Face's `from_pretrained` is told to spread a model by."""

    device: torch.device | None
    spread: dict[str, Any] = field(default_factory=dict)

    @property
    def for_bridge(self) -> dict[str, Any]:
        """Arguments of `TransformerBridge.boot_transformers`."""
        return self.spread if self.device is None else {"device": str(self.device)}


def placement(
    device: Device | None = None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> Placement:
    """What the arguments of `load_model` ask for.

    Raises:
        InputError: arguments that exclude one another, or that say nothing without one that is missing; devices that
            are not here; a mixture that TransformerLens does not take.
    """
    if n_devices is not None:
        n_devices = whole_number("n_devices", n_devices, least=1)
    asked = "device_map" if device_map is not None else f"n_devices={n_devices}" if (n_devices or 1) > 1 else None
    if asked is None:
        for name, value in (("max_memory", max_memory), ("offload_folder", offload_folder)):
            if value is not None:
                raise InputError(f'{name} says nothing for one device; give device_map="auto" beside it.')
        return Placement(checked_device(device))
    if device is not None:
        raise InputError(f"device is {str(device)!r} beside {asked}; give one of them: a device holds a whole model.")
    if device_map is not None and n_devices is not None:
        raise InputError(
            f'n_devices is {n_devices} beside device_map; give one of them: n_devices is short for "balanced".'
        )
    if device_map is not None and not isinstance(device_map, str | Mapping):
        raise InputError(
            f'device_map is {type(device_map).__name__}; give "auto", or a mapping from names of the network\'s parts '
            'to devices, such as {"model.layers.0": "cuda:1"}.'
        )
    if max_memory is not None and not isinstance(max_memory, Mapping):
        raise InputError(f'max_memory is {max_memory!r}; give a mapping, such as {{0: "20GiB", 1: "20GiB"}}.')
    taken = inspect.signature(TransformerBridge.boot_transformers).parameters
    if offload_folder is not None and "offload_folder" not in taken:
        version = importlib.metadata.version("transformer-lens")
        raise InputError(
            f"offload_folder is for weights on the disk, which TransformerLens {version} does not take; "
            'pip install "transformer-lens>=4.3", or leave it out.'
        )
    parts: dict[str, str | int] | str | None = None if device_map is None else str(device_map)
    if isinstance(device_map, Mapping):
        parts = {part: place if isinstance(place, int) else str(place) for part, place in device_map.items()}
    try:
        resolved, budgets = resolve_device_map(n_devices, parts, None, None if max_memory is None else dict(max_memory))
    except ValueError as error:
        raise InputError(f"{asked} cannot be used here: {first_line(error)}") from error
    folder = None if offload_folder is None else str(offload_folder)
    given = {"device_map": resolved, "max_memory": budgets, "offload_folder": folder}
    return Placement(None, {name: value for name, value in given.items() if value is not None})


def checked_device(device: Device | None) -> torch.device:
    """The device, by default "cuda" if available; an InputError if it cannot be used."""
    device = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except Exception as error:  # RuntimeError, AssertionError, TypeError: each backend has its own
        raise InputError(f"device {device!r} cannot be used here ({first_line(error)}); try 'cpu'") from error


def planned(network: Any, n_devices: int, memory: float | None) -> dict[str, int]:
    """Where `load_model(n_devices=)` would put the parts of a network, which may be without weights.

    Args:
        memory: bytes of each device, all the same; None for as many as it takes.

    Returns:
        Name of each part -> its device, from 0; `n_devices` for parts that find no place.
    """
    if n_devices == 1:
        return {"": 0}
    size = sum(x.numel() * x.element_size() for x in network.parameters())
    each = int(size if memory is None else memory)
    budgets: dict[int | str, int | str] = {**dict.fromkeys(range(n_devices), each), "cpu": 2 * size + each}
    kinds = network._no_split_modules
    log = logging.getLogger("accelerate")
    before = log.level
    log.setLevel(logging.CRITICAL)  # that the devices are not here
    try:
        with quiet():
            balanced = get_balanced_memory(network, budgets, kinds)
            found = infer_auto_device_map(network, balanced, kinds)
    finally:
        log.setLevel(before)
    return {part: place if isinstance(place, int) else n_devices for part, place in found.items()}
