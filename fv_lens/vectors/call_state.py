"""What a call of a patched model is at, in its own thread: the forward that runs, and the generation around it."""

import threading
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from .positions import Prompts


@runtime_checkable
class Hooked(Protocol):
    """What the watch puts on a model and takes off: a `Patch`."""

    @property
    def at(self) -> Tensor | None: ...

    def add_hooks(self) -> None: ...

    def remove_hooks(self) -> None: ...


@dataclass(eq=False)
class Generation:
    """A generating method at work, under the patches that it was begun under.

    `masked`: whether the caller said where padding is, by a mask or a side. A mask that a method makes up from pad
    tokens does not count, for the pad token may be one of the prompt's. `prompts`: None until they are tokens.
    """

    patches: dict[Hooked, Tensor | None]  # patch -> its `at`
    masked: bool
    prompts: Prompts | None = None
    rows: int = 0
    seen: int = 0  # tokens that its forwards have run
    ends: dict[Hooked, Prompts] = field(default_factory=dict)


class Calls(threading.local):
    """What a thread's call is at: the forward that runs, the texts it was given, the generating method around it."""

    def __init__(self) -> None:
        # Patch -> (its tokens, the generated ones), both [batch, pos].
        self.now: dict[Hooked, tuple[Tensor, Tensor]] | None = None
        self.texts: Prompts | None = None
        self.generation: Generation | None = None
        self.inside = False
        # Patches whose vectors were added, or found nothing to be added at, in the forward.
        self.reached: set[Hooked] = set()
