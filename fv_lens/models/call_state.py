"""State of a patched model's calls, per thread: the running forward, and the generation around it."""

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .positions import Prompts
from .state import State


@runtime_checkable
class Watched(Protocol):
    """The part of a `Lens` or `Network` that the watch uses."""

    model: Any
    state: State


@runtime_checkable
class Hooked(Protocol):
    """The part of a `Patch` that the watch uses: it puts its hooks on the model and takes them off."""

    @property
    def at(self) -> Tensor | None: ...

    def add_hooks(self) -> None: ...

    def remove_hooks(self) -> None: ...


@dataclass(eq=False)
class Generation:
    """A running call of a generating method, with the patches that were active when it began.

    `masked`: whether the caller said where padding is, by a mask or a side. A mask that a method infers from pad tokens
    does not count, as the pad token may be part of the prompt. `prompts`: None until they are tokenised.
    """

    patches: dict[Hooked, Tensor | None]  # patch -> its `at`
    masked: bool
    prompts: Prompts | None = None
    rows: int = 0
    seen: int = 0  # tokens that its forwards have run
    ends: dict[Hooked, Prompts] = field(default_factory=dict)


class Calls(threading.local):
    """State of a thread's current call: the running forward, its texts, and the generating method around it."""

    def __init__(self) -> None:
        # Patch -> (its tokens, the generated ones), both [batch, pos].
        self.now: dict[Hooked, tuple[Tensor, Tensor]] | None = None
        self.texts: Prompts | None = None
        self.generation: Generation | None = None
        self.inside = False
        # Patches whose hooks were called in this forward, whether or not they added anything.
        self.reached: set[Hooked] = set()
