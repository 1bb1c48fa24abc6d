"""`PatchedLM` as the harness's own command line makes it, from `--model_args`: see `__main__`."""

from collections.abc import Mapping
from typing import Any

import torch

from ...ground.errors import InputError
from ...models.load import load_model
from ...vectors.function_vector import FunctionVector
from .lm_eval_names import simple_parse_args_string
from .model import PatchedLM

LOADING, ADDING = ("dtype", "device"), ("strength", "rolling", "max_length", "max_gen_toks", "batch_size")
PASSED_OVER = ("max_batch_size",)  # which the harness adds, for batch sizes that are found by trying


class NamedLM(PatchedLM):
    """A model by its name, with the vectors of files.

    The arguments are `model`, by default the vector's own, `vector` (a file, or in a mapping a list of files), and any
    of `dtype`, `device`, `strength`, `rolling`, `max_length`, `max_gen_toks` and `batch_size`.
    """

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PatchedLM:
        """The model of "model=smollm2-135m,vector=antonym.safetensors,strength=2"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> PatchedLM:
        """The model of a mapping of arguments.

        Raises:
            InputError: an unknown argument; no model, and no vector that knows its own; a file that holds no vector.
        """
        added = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if not torch.cuda.is_available() and str(added.get("device")).startswith("cuda"):
            del added["device"]  # the harness's default, which it does not insist on
        given = {name: value for name, value in {**added, **arg_dict}.items() if name not in PASSED_OVER}
        if unknown := given.keys() - {"model", "vector", *LOADING, *ADDING}:
            known = ", ".join(("model", "vector", *LOADING, *ADDING))
            raise InputError(f"model_args has {min(unknown)!r}; give {known}.")
        files = given.get("vector", [])
        vectors = [FunctionVector.load(file) for file in ([files] if isinstance(files, str) else files)]
        name = given.get("model") or next((vector.model for vector in vectors if vector.model), None)
        if name is None:
            raise InputError("model_args names no model, and no vector that knows its own; give model=smollm2-135m.")
        model = load_model(name, **{key: given[key] for key in LOADING if key in given})
        return cls(model, vectors, **_settings(given))


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `PatchedLM` is given; the command line has the batch size as text."""
    settings = {key: given[key] for key in ADDING if key in given}
    size = settings.get("batch_size")
    return settings | ({"batch_size": int(size)} if isinstance(size, str) and size.isdigit() else {})
