"""The root-mean-square norms of transformers' layers, gated and plain, by keelback's kernels."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from keelback.compiled.checks import HALF
from keelback.integrations._norm_forms import Form, form_of
from keelback.integrations._replacement import Replacement
from keelback.norm._op import WIDEST, normalise
from keelback.norm._operands import NormOperands, NormOptions
from keelback.norm.reference import GATES

_TYPES = (Tensor, Parameter)
_DTYPES = (torch.float32, *HALF)
#: For devices with kernels, the dtypes of x in which they are the faster ones.
_FASTER = {"cpu": (torch.float32,), "cuda": _DTYPES}
#: Numbers of x from which on they are that on a CPU, in plain norms and in gated ones.
_FASTER_FROM = (1 << 18, 1 << 14)


def replace_norms(replacement: Replacement, module: ModuleType) -> None:
    """Replace the `forward` of each norm that a module of transformers defines and that is known.

    A class that computes anything else is left alone; and of those that are replaced, instances of
    subclasses, tensors of other types (as of tensor parallelism), and what keelback's kernels do
    not compute, or not faster, are still computed by theirs.
    """
    for name, layer in list(vars(module).items()):
        own = isinstance(layer, type) and issubclass(layer, torch.nn.Module)
        if not own or layer.__module__ != module.__name__ or layer.__name__ != name:
            continue
        forward = vars(layer).get("forward")
        theirs: Any = getattr(forward, "_keelback_theirs", forward)
        form = form_of(theirs)
        if form is not None:
            replacement.function(layer, "forward", _in_place_of(layer, theirs, form))


def _in_place_of(layer: type, theirs: Callable[..., Any], form: Form) -> Callable[..., Any]:
    def plain(self: Any, hidden_states: Tensor) -> Any:
        options = _options(self, form, hidden_states, None) if type(self) is layer else None
        if options is None:
            return theirs(self, hidden_states)
        return normalise(NormOperands(hidden_states, None, self.weight), options)

    def gated(self: Any, hidden_states: Tensor, gate: Tensor | None = None) -> Any:
        options = _options(self, form, hidden_states, gate) if type(self) is layer else None
        if options is None:
            return theirs(self, hidden_states, gate)
        return normalise(NormOperands(hidden_states, gate, self.weight), options)

    return gated if form.gated else plain


def _options(layer: Any, form: Form, x: Any, gate: Any) -> NormOptions | None:
    """Those of the operator for a layer, unless the kernels do not compute it, or not faster."""
    if type(x) not in _TYPES or x.ndim == 0 or x.dtype not in _FASTER.get(x.device.type, ()):
        return None
    if x.device.type == "cpu" and x.numel() < _FASTER_FROM[form.gated]:
        return None
    activation = vars(layer).get("activation", "silu")
    if not _fits(layer.weight, x, x.shape[-1:]) or activation not in GATES:
        return None
    if form.needs_gate if gate is None else not _fits(gate, x, x.shape):
        return None
    channels = x.shape[-1]
    size = form.group_size(layer, channels)
    if size < 0 or channels == 0 or channels % (size or channels) or (size or channels) > WIDEST:
        return None
    return NormOptions(
        layer.variance_epsilon,
        size,
        form.norm_before_gate(layer),
        activation == "sigmoid",
        form.rounded,
        form.promoted,
    )


def _fits(other: Any, x: Tensor, shape: torch.Size) -> bool:
    """Whether it is a plain tensor of that shape, where x is, in a dtype for the kernels."""
    if type(other) not in _TYPES:
        return False
    return other.shape == shape and other.device == x.device and other.dtype in _DTYPES
