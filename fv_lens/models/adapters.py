"""Twins of a model that hold something to train: LoRA adapters, or virtual tokens before the prompt.

A twin has modules of its own and shares the numbers of the user's weights, frozen. Whatever is trained on it, replaced
in it or broken off halfway, the user's model stays as it was, and a twin takes hardly any memory.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..ground.errors import InputError
from .base import Lens
from .bridge import BridgeLens
from .lens import lens_of
from .onednn import through_onednn
from .sites import probe_ids
from .state import modules, places
from .weights import is_offloaded

FEW_TOKENS = 4096  # enough to know how long embeddings are
EXTRA = "baselines"  # the extra of pyproject.toml that installs PEFT


@dataclass(frozen=True, eq=False)
class Adapted:
    """A twin of a model with trainable numbers on it.

    Args:
        lens: the twin's lens, through which the engine measures it as any other model.
        parameters: the numbers to train, float32; everything else is frozen.
        scale: root mean square of the numbers that a trained row stands beside (token embeddings), else 1.
        virtual: ids of the virtual tokens, which stand before all else in each prompt.
    """

    lens: Lens
    parameters: list[nn.Parameter]
    scale: float = 1.0
    virtual: tuple[int, ...] = ()

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters)

    def values(self) -> list[Tensor]:
        """A copy of the numbers that are trained, as they are now."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def set(self, values: Sequence[Tensor]) -> None:
        """Put what `values` returned back in place."""
        for parameter, value in zip(self.parameters, values):
            parameter.copy_(value)

    def logits(
        self, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"], last: int
    ) -> Float[Tensor, "row last vocab"]:
        """Logits of the last tokens by a full forward, differentiable in the parameters."""
        return through_onednn(self.lens.logits)(ids, mask, last=last)


class VirtualTokens(nn.Module):
    """Token embeddings, and rows of virtual tokens whose ids follow those of the vocabulary."""

    def __init__(self, known: nn.Module, rows: nn.Parameter):
        super().__init__()
        self.known, self.rows = known, rows

    @property
    def weight(self) -> Tensor:
        """The embeddings of the vocabulary, which the model may read by this name."""
        weight = self.known.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        first = len(self.weight)
        embedded = self.known(ids.clamp(max=first - 1), *args, **kwargs)
        ids = ids.to(embedded.device)
        virtual = self.rows[(ids - first).clamp(min=0).to(self.rows.device)].to(embedded)
        return torch.where((ids >= first)[..., None], virtual, embedded)


def with_soft_prompt(lens: Lens, n_tokens: int, seed: int = 0) -> Adapted:
    """A twin with `n_tokens` virtual tokens, which begin as embeddings of tokens drawn from the vocabulary.

    They stand before the whole prompt, its BOS token included, as in PEFT's prompt tuning.

    Raises:
        InputError: see `twin`.

    Source: Lester et al. 2021, The power of scale for parameter-efficient prompt tuning; PEFT's `PromptEmbedding`.
    """
    peft = peft_module()
    made = twin(lens)
    known, d_vocab = made.network.get_input_embeddings(), len(made.embedding)
    how = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=n_tokens, token_dim=made.d_model, num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
    )  # fmt: skip
    with _drawing(lens, seed), torch.no_grad():
        rows = peft.PromptEmbedding(how, _Vocabulary(known, made.embedding)).embedding.weight
    rows = nn.Parameter(rows.detach().to(made.device, torch.float32))
    made.network.set_input_embeddings(VirtualTokens(known, rows))
    made.n_ctx -= n_tokens
    made.renew()
    first = known(torch.arange(min(d_vocab, FEW_TOKENS), device=made.device)[None])
    scale = float(first.float().square().mean().sqrt())
    return Adapted(made, [rows], scale, tuple(range(d_vocab, d_vocab + n_tokens)))


def with_lora(lens: Lens, layers: Sequence[int], rank: int = 1, seed: int = 0) -> Adapted:
    """A twin with LoRA adapters on every linear map that a forward of these blocks calls.

    Raises:
        InputError: see `twin`; or the blocks call no linear map that PEFT can adapt.

    Source: Hu et al. 2022, LoRA: low-rank adaptation of large language models.
    """
    peft = peft_module()
    made = twin(lens)
    targets = _called_maps(made, layers)
    how = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, bias="none")
    with _drawing(lens, seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which way round each map keeps its weights
        peft.inject_adapter_in_model(how, made.network)
    trained = [parameter for parameter in made.network.parameters() if parameter.requires_grad]
    for parameter in trained:  # in half precision small steps of Adam are lost, or not finite
        parameter.data = parameter.data.float()
    made.network.eval()
    made.renew()
    return Adapted(made, trained)


def check_adaptable(lens: Lens) -> None:
    """Raise an InputError unless something can be trained on a twin of this model.

    Raises:
        InputError: PEFT is not installed; a HookedTransformer, whose parts PEFT does not know; a patch, or hooks or
            adapters of the user's, on the model; weights that are offloaded, or were loaded in inference mode.
    """
    peft = peft_module()
    if not isinstance(lens, BridgeLens):
        raise InputError(
            f"{lens.name} is a HookedTransformer, and soft prompts and LoRA are trained on Hugging Face's network, "
            'which a TransformerBridge has. Load the model with load_model(..., cls="bridge"), or leave out these '
            "methods."
        )
    if lens.patches:
        raise InputError(
            "A patch is active on this model, and training would run through it. Call fv_lens.unpatch(model) first."
        )
    if hooks := lens.user_hooks:
        where = ", ".join(places(hooks, lens.network))
        raise InputError(f"{lens.name} has a {where}, which training would run through. Take it off first.")
    if is_offloaded(lens.model):
        raise InputError(
            f"Weights of {lens.name} are loaded from the disk or the CPU for each call, and a twin shares weights that "
            "stay where they are. Load the model on one device, or over GPUs that hold it."
        )
    if any(parameter.is_inference() for parameter in lens.model.parameters()):
        raise InputError(
            f"{lens.name} was loaded in torch.inference_mode(), where nothing can be trained; load it outside."
        )
    if any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in modules(lens.network)):
        raise InputError(f"{lens.name} has adapters of PEFT on it already; merge them or take them off first.")


def twin(lens: Lens) -> Lens:
    """A copy of the model with modules of its own and the same numbers in its weights, frozen, in evaluation mode.

    Raises:
        InputError: see `check_adaptable`.
    """
    check_adaptable(lens)
    model, memo = lens.model, dict[int, Any]({id(lens.model.tokenizer): lens.model.tokenizer})
    for parameter in model.parameters():
        plain = type(parameter) is nn.Parameter and parameter.is_floating_point()
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
    for module in modules(model, lens.network):  # some keep what they computed, with its graph, which cannot be copied
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
    with lens.state.lock:
        return lens_of(copy.deepcopy(model, memo).eval())


@torch.no_grad()
def _called_maps(lens: Lens, layers: Sequence[int]) -> list[str]:
    """Names in the network of the linear maps that a forward calls in these blocks; some hold maps that none calls."""
    names = {id(module): name for name, module in lens.network.named_modules()}
    maps = [
        module
        for module in modules(*(lens.model.blocks[layer] for layer in layers))
        if isinstance(module, nn.Linear | Conv1D) and id(module) in names
    ]
    called: list[str] = []
    handles = [module.register_forward_hook(lambda own, given, out: called.append(names[id(own)])) for module in maps]
    ids = probe_ids(lens)
    lens.logits(ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    if not called:
        raise InputError(f"Layers {list(layers)} of {lens.name} call no linear map that PEFT could adapt.")
    return list(dict.fromkeys(called))


class _Vocabulary(nn.Module):
    """The embeddings as PEFT asks for them, which draws tokens by their number."""

    def __init__(self, known: nn.Module, weight: Tensor):
        super().__init__()
        self.known, self.weight, self.num_embeddings = known, weight, len(weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.known(ids[None])[0]


@contextmanager
def _drawing(lens: Lens, seed: int) -> Iterator[None]:
    """Torch's random numbers from this seed in a block, after which they go on as if it had not been."""
    with torch.random.fork_rng(lens.gpus):
        torch.manual_seed(seed)
        yield


def peft_module() -> Any:
    """PEFT's module; an InputError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise InputError(
            f'Soft prompts and LoRA need PEFT, which is not installed: pip install "fv-lens[{EXTRA}]", or leave out '
            "these methods."
        ) from None
    return peft
