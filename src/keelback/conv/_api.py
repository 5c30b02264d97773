"""The short causal convolution before the scan of a Mamba block."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import computing_dtype, require_shape
from keelback.compiled.scripting import for_script
from keelback.conv._op import advance, convolve
from keelback.conv._operands import require_activation, require_weight
from keelback.errors import InputError

Activation = Literal["silu", "swish"]


def causal_conv1d(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    activation: Activation | None = None,
    initial_state: Float[Tensor, "batch past channels"] | None = None,
    return_last_state: bool = False,
    *,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> (
    Float[Tensor, "batch length channels"]
    | tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch past channels"]]
):
    """A causal convolution of each channel with its own few taps, bias and SiLU in one kernel.

        y_t = act(bias + sum_k weight_k x_{t - width + 1 + k})

    The last tap meets the present step; before the first one there are zeros, or the initial state.
    This is the convolution of Mamba's block (Gu and Dao 2023, arXiv 2312.00752, Figure 3). The
    backward pass keeps x alone and computes the sums again. A tensor (batch, channels, length)
    goes in and out as `.mT`, which costs nothing where its channels are adjacent in memory. dtypes
    are as in `selective_scan`: half precision is computed in float32, and y has the dtype of x.

    Args:
        x: The input.
        weight: The taps.
        bias: Added to the sums.
        activation: "silu", also called "swish", or none.
        initial_state: The width - 1 steps before the first one.
        return_last_state: Whether to return the last width - 1 steps too, the initial state of
            what follows.
        backend: "reference" (plain PyTorch), "cpu" or "cuda" (compiled); if absent, the one for
            the device of x.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> x, weight = torch.ones(1, 4, 1), torch.ones(1, 3)
        >>> causal_conv1d(x, weight).flatten()
        tensor([1., 2., 3., 3.])
    """
    require_activation(activation)
    entire, past = x, 0
    if initial_state is not None:
        require_shape("x", x, ("batch", "length", "channels"))
        require_weight(weight, bias, x.shape[2])
        past = weight.shape[1] - 1
        require_shape("initial_state", initial_state, (x.shape[0], past, x.shape[2]))
        computing_dtype({"x": x, "weight": weight, "bias": bias, "initial_state": initial_state})
        stored = torch.promote_types(x.dtype, initial_state.dtype)
        entire = torch.cat([initial_state.to(stored), x.to(stored)], dim=1)
    y = convolve(entire, weight, bias, activation is not None, backend)
    y = (y[:, past:] if past else y).to(x.dtype)
    if not return_last_state:
        return y
    width = weight.shape[1]
    missing = max(0, width - 1 - entire.shape[1])
    last_state = F.pad(entire, (0, 0, missing, 0))[:, missing + entire.shape[1] - width + 1 :]
    return y, last_state


def causal_conv1d_update(
    x: Float[Tensor, "batch channels *length"],
    state: Float[Tensor, "batch channels past"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    activation: Activation | None = None,
) -> Float[Tensor, "batch channels *length"]:
    """One step of `causal_conv1d`, for decoding, or a few: overwrites `state` with newer inputs.

    Args:
        x: The input of the step, or of several.
        state: At least width - 1 past inputs; the newest is the last.
        weight: As in `causal_conv1d`.
        bias: As in `causal_conv1d`.
        activation: As in `causal_conv1d`.

    Raises:
        InputError: An operand has the wrong shape or dtype.

    Examples:
        >>> state, weight = torch.zeros(1, 1, 2), torch.ones(1, 3)
        >>> causal_conv1d_update(torch.ones(1, 1), state, weight)
        tensor([[1.]])
        >>> state
        tensor([[[0., 1.]]])
    """
    require_activation(activation)
    return advance(x, state, weight, bias, activation is not None)


def _refuse_state(*arguments: Any, **named: Any) -> None:
    if named.get("return_last_state") or (len(arguments) > 5 and arguments[5]):
        raise InputError("in TorchScript causal_conv1d returns y alone: no return_last_state")


for_script(
    "(Tensor x, Tensor weight, Tensor? bias=None, str? activation=None, "
    "Tensor? initial_state=None, bool return_last_state=False, *, str? backend=None) -> Tensor",
    causal_conv1d,
    _refuse_state,
)
