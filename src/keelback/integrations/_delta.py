"""The delta rules of transformers' layers, by keelback's kernels."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from keelback.delta import delta_rule, delta_rule_step
from keelback.integrations._packed import reset_of
from keelback.integrations._stand_in import is_installed
from keelback.integrations._widths import in_one_width

#: In a module of transformers: the function for sequences, and that for steps.
BY_HEAD = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
BY_CHANNEL = ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention")


def delta_rules(theirs: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """What to put in the place of a module's functions, by their names.

    On a GPU with flash-linear-attention, whose kernels transformers calls there, they stay.
    """
    by_fla = is_installed("fla")
    return {name: _in_place_of(function, by_fla) for name, function in theirs.items()}


def _in_place_of(theirs: Callable[..., Any], by_fla: bool) -> Callable[..., Any]:
    def ours(query: Tensor, *operands: Any, **options: Any) -> Any:
        if by_fla and query.is_cuda:
            return theirs(query, *operands, **options)
        return delta_attention(query, *operands, **options)

    return ours


def delta_attention(
    query: Float[Tensor, "batch length groups key"],
    key: Float[Tensor, "batch length groups key"],
    value: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    *,
    initial_state: Float[Tensor, "batch heads key value"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> tuple[
    Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"] | None
]:
    """Both functions of transformers, for sequences and for steps; `chunk_size` has no effect, and
    packed sequences are kept apart."""
    batch, length = value.shape[:2]
    reset = reset_of(options, batch, length)
    q, k, v, g, beta, states = in_one_width(query, key, value, g, beta, initial_state)
    if length == 1 and states is not None:
        now = [x.squeeze(1) for x in (q, k, v, g, beta)]
        y, last = delta_rule_step(states, *now, normalise=use_qk_l2norm_in_kernel)
        y = y.unsqueeze(1)
    else:
        y, last = delta_rule(
            q,
            k,
            v,
            g,
            beta,
            states,
            return_final_states=True,
            normalise=use_qk_l2norm_in_kernel,
            reset=reset,
        )
    return y.to(query.dtype), last if output_final_state else None
