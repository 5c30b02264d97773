"""The public gated norm."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from keelback.compiled.scripting import for_script
from keelback.norm._op import normalise
from keelback.norm._operands import (
    NormOperands,
    NormOptions,
    require_gate_activation,
    require_group,
)


def gated_rms_norm(
    x: Float[Tensor, "*rows channels"],
    gate: Float[Tensor, "*rows channels"] | None = None,
    weight: Float[Tensor, " channels"] | None = None,
    eps: float = 1e-5,
    group_size: int | None = None,
    norm_before_gate: bool = False,
    activation: Literal["silu", "swish", "sigmoid"] = "silu",
    round_before_weight: bool = False,
    *,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> Float[Tensor, "*rows channels"]:
    """The gated root-mean-square norm behind a scan by heads or a delta rule, in one kernel.

        v = x silu(gate)    r = 1 / sqrt(mean v^2 + eps)    y = weight v r    (gate, then norm)
        r = 1 / sqrt(mean x^2 + eps)    y = weight x r silu(gate)             (norm, then gate)

    The mean is over a group of channels of one row. Mamba-2 multiplies by the gate first (Dao and
    Gu 2024, arXiv 2405.21060), gated delta nets normalise first (Yang et al. 2024, arXiv
    2412.06464); mamba_ssm has both as `rmsnorm_fn`. The backward pass keeps x, the gate, the weight
    and r. Slices of a projection go in as they are, without a copy.

    Everything is computed in float32, or in float64 where all operands are; y has the dtype of x.
    A group of more than 16,384 channels, and half precision on a CPU, are computed by PyTorch's own
    operations.

    Args:
        x: The numbers to be normalised; rows may have any number of axes.
        gate: Multiplies after the activation; none if absent.
        weight: Multiplies the normalised numbers, channel by channel; none if absent.
        eps: Added to the mean square.
        group_size: Channels of a group, whose number divides that of all; all of them by default.
        norm_before_gate: Whether the gate multiplies what is normalised already.
        activation: What is taken of the gate: "silu", also called "swish", or "sigmoid".
        round_before_weight: Whether the normalised numbers are rounded to the dtype of x, and their
            product with the weight to the wider dtype of both, as in most norms of transformers;
            else y alone is rounded.
        backend: "reference" (plain PyTorch), "cpu" or "cuda" (compiled); if absent, the one for
            the device of x.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, the groups do not divide the
            channels, or the backend is not for the device.

    Examples:
        >>> x, gate = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        >>> gated_rms_norm(x, weight=torch.tensor([5.0, 5.0]), eps=0.0)
        tensor([[4.2426, 5.6569]])
        >>> gated_rms_norm(x, gate, activation="sigmoid", norm_before_gate=True, eps=0.0)
        tensor([[0.4243, 0.5657]])
    """
    require_gate_activation(activation)
    if group_size is not None:
        require_group(group_size, x.shape[-1] if x.ndim else 0)
    options = NormOptions(
        eps,
        group_size or 0,
        norm_before_gate,
        activation == "sigmoid",
        round_before_weight,
        False,
    )
    return normalise(NormOperands(x, gate, weight), options, backend)


for_script(
    "(Tensor x, Tensor? gate=None, Tensor? weight=None, float eps=1e-05, int? group_size=None, "
    'bool norm_before_gate=False, str activation="silu", bool round_before_weight=False, *, '
    "str? backend=None) -> Tensor",
    gated_rms_norm,
)
