"""What a study is of, as plain data that any process on any machine can load it from."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...datasets.relations import Relation
from ..names import DtypeName

if TYPE_CHECKING:
    from .outline import Settings
    from .setup import Study


@dataclass(frozen=True)
class Order:
    """What is studied on each model.

    Args:
        relations: as they were given.
        settings: the sizes of the study.
        dtype: of the weights.
        chat: whether the model is asked in its own chat form.
        threads: of torch, on which the last digits depend; None for as many as it takes by itself.
        devices: GPUs that a model is spread over.
    """

    relations: Sequence[Relation]
    settings: "Settings"
    dtype: DtypeName
    chat: bool = False
    threads: int | None = None
    devices: int = 1

    @property
    def known(self) -> dict[str, Any]:
        """What a study's plan says of it, as far as that is known without the model."""
        plan = {"settings": self.settings.to_dict(), "dtype": f"torch.{self.dtype}"}
        return plan if self.threads is None else plan | {"threads": self.threads}

    def load(self, name: str) -> "tuple[Study, dict[str, Any]]":
        """The study of a model, which is loaded, and the hash of its weights."""
        import torch

        from ...datasets.prompts import PromptTemplate
        from ...models.lens import lens_of
        from ...models.load import load_model
        from .setup import Study

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = load_model(name, dtype=self.dtype, n_devices=self.devices if self.devices > 1 else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small parts were warned of before
            template = PromptTemplate.chat(loaded) if self.chat else PromptTemplate()
            study = Study(loaded, self.relations, self.settings, template)
        return study, {"weights, SHA-256": lens_of(loaded).weights_hash}
