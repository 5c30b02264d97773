"""keelback's scan in the Mamba-family models of Hugging Face transformers."""

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from keelback.errors import InputError
from keelback.integrations._convolution import causal_convolution, convolution_update
from keelback.integrations._delta import BY_CHANNEL, BY_HEAD, delta_rules
from keelback.integrations._diagonal import rg_lru_scan, rwkv_attention
from keelback.integrations._mamba2 import scan_by_heads, step_by_heads
from keelback.integrations._mlstm import mlstm_backend
from keelback.integrations._norms import replace_norms
from keelback.integrations._packed import reset_of, telling_of_packing
from keelback.integrations._replacement import Replacement
from keelback.integrations._widths import in_one_width
from keelback.scan import selective_scan, selective_scan_fn
from keelback.scan._op import step
from keelback.scan._operands import Operands

#: The model families of transformers whose layers call a selective scan with a diagonal A.
FAMILIES = ("mamba", "falcon_mamba", "jamba", "zamba")
#: Those whose layers scan by heads, as Mamba-2 does.
FAMILIES_BY_HEADS = ("mamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2")
#: Those with gated delta rules, and with Kimi's delta attention, which decays channels.
FAMILIES_OF_DELTA_RULES = (
    *("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "olmo_hybrid", "lara_mini"),
)
FAMILIES_OF_KIMI_DELTA = ("kimi_linear", "bailing_hybrid", "glm5_next")
_SCAN = "mamba_selective_scan"
_SCAN_BY_HEADS = "mamba2_chunk_scan"
_STEP = "mamba_selective_state_update"
_FUSED = ("mamba_inner_fn", "mamba2_split_conv1d_scan_combined")
_OTHERS: dict[str, Callable[..., Any]] = {
    "mamba2_selective_state_update": step_by_heads,
    "causal_conv1d_fn": causal_convolution,
    "causal_conv1d_update": convolution_update,
    **dict.fromkeys(_FUSED, lambda *args, **kwargs: None),  # a layer then calls the parts
}

_PACKAGES = ("transformers", "keelback", "mamba_ssm", "causal_conv1d")
"""Whose functions modules of transformers may hold, of themselves or after a call of ours."""


def use_in_transformers(*, norms: bool = True) -> Replacement:
    """Let the recurrent layers of transformers' models convolve, scan and normalise with keelback.

    These are the Mamba layers of Mamba, FalconMamba, Jamba and Zamba, the Mamba-2 layers of
    Mamba-2, Bamba, FalconH1, GraniteMoeHybrid, NemotronH and Zamba-2, the gated delta rules of
    Qwen3-Next, Qwen3.5 (dense, with experts, and with vision), Qwen4 (experimental), OLMo hybrid
    and LaraMini, the delta attention of Kimi Linear, Bailing hybrid and GLM-5 Next, the RG-LRU of
    RecurrentGemma, the linear attention of RWKV, and the mLSTM of xLSTM. Of all but the last three
    the root-mean-square norms are replaced too, gated and plain, whose code is known. `names` of
    the result has what was replaced: a family that the installed transformers does not have, or
    builds otherwise, is not among them.
    Neither mamba-ssm nor causal-conv1d nor flash-linear-attention needs to be installed.

    The functions are replaced in transformers' modules, so that models made before the call use
    keelback's as well as those made after it, on CPU and GPU, in training and generation, until the
    result is undone. Two things stay as they are: the single steps of RG-LRU, RWKV and xLSTM, in
    which there is no loop, and on a GPU with flash-linear-attention those delta rules that its
    kernels compute faster (`who_computes_on_gpu` says which).
    Several sequences packed into one (`seq_idx`, `cu_seq_lens_q`, or the `position_ids` of
    `DataCollatorWithFlattening`) are kept apart, but not by RecurrentGemma and RWKV, whose layers
    mix neighbouring tokens outside of what is replaced, nor by the indexed attention of GLM-5 Next,
    nor by xLSTM, which takes no such argument.
    A call under gradient checkpointing without `use_reentrant` is run again as it ran at first,
    also after the result was undone:

        with keelback.integrations.use_in_transformers():
            model.generate(...)

    Args:
        norms: also replace the norms. A module to which accelerate has added hooks (`device_map`)
            keeps the norm that it had then, so that models placed by it and others agree to
            rounding alone; False makes them agree to the bit.

    Raises:
        InputError: transformers is not installed, or is of a version whose models are built
            otherwise.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> with use_in_transformers():
        ...     logits = model(torch.zeros(1, 20, dtype=torch.int64)).logits
        >>> logits.shape
        torch.Size([1, 20, 40])
    """
    if find_spec("transformers") is None:
        raise InputError("transformers is not installed: pip install 'keelback[hf]'")
    replacement = Replacement()
    selective: dict[str, Callable[..., Any]] = {_SCAN: _selective_scan, _STEP: _state_update}
    modules = [_replace(replacement, family, selective) for family in FAMILIES]
    for family in FAMILIES_BY_HEADS:
        modules.append(_replace(replacement, family, {_SCAN_BY_HEADS: scan_by_heads}))
    for families, names in (
        (FAMILIES_OF_DELTA_RULES, BY_HEAD),
        (FAMILIES_OF_KIMI_DELTA, BY_CHANNEL),
    ):
        modules += [_replace_delta_rules(replacement, family, names) for family in families]
    if not replacement.names:
        version = importlib.import_module("transformers").__version__
        raise InputError(
            f"transformers {version} has no function {_SCAN} in its Mamba models; "
            "5.15 and newer have"
        )
    for module in modules if norms else []:
        if module is not None:
            replace_norms(replacement, module)
    _replace_diagonal_recurrences(replacement)
    _replace_mlstm(replacement)
    return replacement


def has_its_own_functions(module: ModuleType) -> bool:
    """Whether what would be replaced in a module of models came with it, or is keelback's already.

    Someone may have put another scan there, which makes another model of those that call it.
    """
    names = (_SCAN, _SCAN_BY_HEADS, _STEP, *_OTHERS)
    return all(_is_known(getattr(module, name)) for name in names if hasattr(module, name))


def _is_known(function: Any) -> bool:
    """Whether a function's own code lies in one of the packages that put functions there."""
    if function is None:
        return True
    code = getattr(function, "__code__", None)
    packages = (sys.modules.get(package) for package in _PACKAGES)
    roots = [root for package in packages if package for root in package.__path__]
    return code is not None and any(Path(code.co_filename).is_relative_to(x) for x in roots)


def _replace(
    replacement: Replacement, family: str, scans: dict[str, Callable[..., Any]]
) -> ModuleType | None:
    """Replace the scans of a family and, where all of them are there, what lies around them.

    Gives the module in which they were replaced.
    """
    module = _module_of(family)
    if module is None or not all(hasattr(module, name) for name in scans):
        return None
    for name, function in {**scans, **_OTHERS}.items():
        if hasattr(module, name):
            replacement.function(module, name, function)
    for model in _models_of(module):
        replacement.attribute(model, "forward", telling_of_packing(model.forward))
    return module


def _replace_delta_rules(
    replacement: Replacement, family: str, names: tuple[str, ...]
) -> ModuleType | None:
    """Replace the delta rules of a family, if its layers look them up when they are called."""
    module = _module_of(family)
    if module is None or not _looked_up(module, names):
        return None
    theirs = {name: getattr(module, name) for name in names}
    return _replace(replacement, family, delta_rules(theirs))


def _replace_diagonal_recurrences(replacement: Replacement) -> None:
    """Replace those of RecurrentGemma and of RWKV, which transformers computes in loops."""
    gemma, rwkv = _module_of("recurrent_gemma"), _module_of("rwkv")
    layer = getattr(gemma, "RecurrentGemmaRglru", None)
    if layer is not None and hasattr(layer, "_rnn_scan"):
        replacement.function(layer, "_rnn_scan", rg_lru_scan(layer._rnn_scan))
    if rwkv is not None and hasattr(rwkv, "rwkv_linear_attention"):
        replacement.function(rwkv, "rwkv_linear_attention", rwkv_attention(rwkv))


def _replace_mlstm(replacement: Replacement) -> None:
    """Replace that of xLSTM, unless its layers are those of the package `xlstm`."""
    backend = getattr(_module_of("xlstm"), "xLSTMBackend", None)
    if backend is not None:
        replacement.function(backend, "forward", mlstm_backend(backend.forward))


def _module_of(family: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError:
        return None


def _looked_up(module: ModuleType, names: tuple[str, ...]) -> bool:
    """Whether a layer calls the functions of its module by their names.

    Layers of older releases keep a function from the time they are made.
    """
    layers = [one for one in vars(module).values() if isinstance(one, type)]
    forwards = [inspect.unwrap(one.forward) for one in layers if hasattr(one, "forward")]
    return any(
        set(names) <= set(forward.__code__.co_names)
        for forward in forwards
        if hasattr(forward, "__code__")
    )


def _models_of(module: ModuleType) -> list[Any]:
    """The classes of models that a module of transformers defines, with a forward of their own."""
    base = importlib.import_module("transformers").PreTrainedModel
    own = (one for one in vars(module).values() if isinstance(one, type))
    return [
        one
        for one in own
        if issubclass(one, base) and one.__module__ == module.__name__ and "forward" in vars(one)
    ]


def _selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mamba_selective_scan` of transformers; its other options choose among its own slow paths."""
    batch, _, length = hidden_states.shape
    reset = reset_of(options, batch, length)
    u, dt, A, B, C, D, z, delta_bias = in_one_width(hidden_states, dt, A, B, C, D, z, delta_bias)
    if reset is not None:
        result = selective_scan(
            u.mT,
            dt.mT,
            A,
            B.mT.unsqueeze(2),
            C.mT.unsqueeze(2),
            D,
            None if z is None else z.mT,
            delta_bias,
            delta_softplus,
            return_last_state=True,
            reset=reset,
        )
        return (result[0].mT, result[1]) if return_last_state else result[0].mT
    scanned: Tensor | tuple[Tensor, Tensor] = selective_scan_fn(
        u, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
    )
    return scanned


def _state_update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`mamba_selective_state_update` of transformers: overwrites `state`."""
    x, dt, A, B, C, D, z, dt_bias = in_one_width(hidden_states, dt, A, B, C, D, z, dt_bias)
    operands = Operands(x, dt, A, B.unsqueeze(1), C.unsqueeze(1), D, z, dt_bias, state)
    return step(operands, dt_softplus, in_place=True)[0]
