"""Where the parts of a model run: all on one device, or blocks on several, between which accelerate's hooks carry what
enters each.

What meets the activations of a block follows them: it is taken to the device of the tensor that it meets (`x.device`).
Where there is no such tensor yet, `Lens.device` is where prompts enter, and `Lens.device_of` where a block runs.
"""

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module runs: where its numbers are, or, if they are offloaded, where accelerate takes them for a call.

    None for a module without numbers of its own, or with none that are anywhere.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.device.type != "meta":
                return parameter.device
            device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None
