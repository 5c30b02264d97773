"""A stand-in for flash-linear-attention (fla): functions of its delta rules, by keelback."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.delta import delta_rule, delta_rule_step
from keelback.errors import InputError
from keelback.integrations import _fla_kin, _fla_linear
from keelback.integrations._delta import is_faster_than_fla
from keelback.integrations._fla_calls import HOW, called
from keelback.integrations._replacement import Replacement
from keelback.integrations._stand_in import Contents, is_installed, replace_in_package, stand_in


def provide_fla() -> Replacement:
    """Let code that imports operators from flash-linear-attention (`fla`) get keelback's.

    `fla.ops` and its modules `delta_rule`, `gated_delta_rule`, `kda` (with `kda.gate`), `rwkv7`,
    `generalized_delta_rule`, `gla`, `simple_gla`, `retention`, `lightning_attn` and `linear_attn`
    then have what they have in fla. Nothing else of fla is there: importing that fails, as it does
    without fla.
    Where fla is installed its functions are replaced instead; on a GPU only where keelback's
    kernels were measured to be faster, which is in the gated delta rule in half precision and in
    Kimi delta attention in bfloat16, with sequences that are not packed. Code that has imported the
    functions before the call keeps those that it has, such as fla's own layers. An option that
    keelback cannot honour raises an `InputError` with its name.

    Examples:
        >>> with provide_fla():
        ...     from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    """
    by_head: dict[str, Any] = {
        "chunk_gated_delta_rule": chunk_gated_delta_rule,
        "chunk_gdn": chunk_gated_delta_rule,
        "fused_recurrent_gated_delta_rule": fused_recurrent_gated_delta_rule,
        "fused_recurrent_gdn": fused_recurrent_gated_delta_rule,
    }
    without_decay = {
        name: partial(_delta_rule, name)
        for name in ("chunk_delta_rule", "fused_chunk_delta_rule", "fused_recurrent_delta_rule")
    }
    by_channel: dict[str, Any] = {
        "chunk_kda": chunk_kda,
        "fused_recurrent_kda": fused_recurrent_kda,
    }
    gate = {"fused_kda_gate": fused_kda_gate}
    others = _fla_kin.contents() | _fla_linear.contents()
    every = {name: function for own in others.values() for name, function in own.items()}
    every.pop("fused_mul_recurrent_rwkv7")  # which fla.ops itself has not
    contents: Contents = {
        "fla": {},
        "fla.ops": {**by_head, **without_decay, **by_channel, **every},
        "fla.ops.delta_rule": without_decay,
        "fla.ops.gated_delta_rule": by_head,
        "fla.ops.kda": by_channel,
        "fla.ops.kda.gate": gate,
        **others,
    }
    if not is_installed("fla"):
        return stand_in(contents)
    return replace_in_package(contents, _the_faster)


def _the_faster(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Ours, but on a GPU theirs unless it is a delta rule and `is_faster_than_fla`; nor may an
    option be given there that leaves the measured path, such as `cu_seqlens`."""
    names = signature(ours)

    @wraps(theirs)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not any(isinstance(x, Tensor) and x.is_cuda for x in given):
            return ours(*args, **kwargs)
        if ours not in _MEASURED or not set(kwargs) <= {*names.parameters, *HOW}:
            return theirs(*args, **kwargs)
        try:
            found = names.bind(*args, **kwargs).arguments
        except TypeError:  # fla's have more options, which may be given by their places.
            return theirs(*args, **kwargs)
        q, k, v = (found[name] for name in "qkv")
        g, beta = found.get("g"), found.get("beta")
        further = found.get("gk") is not None or found.get("gv") is not None
        if g is None or further or (beta is not None and beta.ndim == v.ndim):
            return theirs(*args, **kwargs)
        return (ours if is_faster_than_fla(q, k, v, g) else theirs)(*args, **kwargs)

    return chosen


def chunk_gated_delta_rule(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"],
    beta: Float[Tensor, "batch length heads"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> Any:
    """The gated delta rule: the output, and the final states or None."""
    return _attend(
        "chunk_gated_delta_rule",
        (q, k, v, g, beta),
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        options,
    )


def fused_recurrent_gated_delta_rule(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | None = None,
    gk: Float[Tensor, "batch length heads key"] | None = None,
    gv: None = None,
    beta: Float[Tensor, "batch length heads"] | None = None,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> Any:
    """The same, where log decays per head and per key channel add up, and beta is 1 if absent."""
    beta = v.new_ones(v.shape[:-1]) if beta is None else beta
    g = v.new_zeros(v.shape[:-1]) if g is None else g
    g = g if gk is None else g.unsqueeze(-1) + gk
    return _attend(
        "fused_recurrent_gated_delta_rule",
        (q, k, v, g, beta),
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        {"gv": gv, **options},
    )


def _delta_rule(
    name: str,
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    beta: Float[Tensor, "batch length heads"] | None = None,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> Any:
    """The delta rule without decay, where beta is 1 if absent."""
    still, one = v.new_zeros(v.shape[:-1]), v.new_ones(v.shape[:-1])
    return _attend(
        name,
        (q, k, v, still, one if beta is None else beta),
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        options,
    )


def chunk_kda(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> Any:
    """Kimi delta attention: the output, and the final states or None."""
    return _attend(
        "chunk_kda",
        (q, k, v, g, beta),
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        options,
    )


def fused_recurrent_kda(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> Any:
    """The same; releases of fla differ in the order of what follows beta."""
    return _attend(
        "fused_recurrent_kda",
        (q, k, v, g, beta),
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        options,
    )


#: Those that were timed on a GPU beside fla's.
_MEASURED = (
    chunk_gated_delta_rule,
    fused_recurrent_gated_delta_rule,
    chunk_kda,
    fused_recurrent_kda,
)


def fused_kda_gate(
    g: Float[Tensor, "*rows channels"] | Float[Tensor, "*rows heads key"],
    A_log: Tensor | None,
    dt_bias: Tensor | int | None = None,
    lower_bound: float | None = None,
    output_dtype: torch.dtype = torch.float32,
    *,
    head_k_dim: int | None = None,
    g_bias: Tensor | None = None,
) -> Float[Tensor, "*rows heads key"]:
    """The log decays of Kimi delta attention, from what its layer projects: -exp(A_log)
    softplus(g + dt_bias), or lower_bound sigmoid(exp(A_log) (g + dt_bias)), where A_log may be
    absent: it is 0 then.

    In older releases the third argument is the key's size, by which the last axis of `g` is split,
    and `g_bias` the bias.

    Raises:
        InputError: Neither A_log nor lower_bound is given.
    """
    if isinstance(dt_bias, int):
        head_k_dim, dt_bias = dt_bias, g_bias
    if head_k_dim is not None:
        g = g.reshape(*g.shape[:-1], -1, head_k_dim)
    return _gate(g, A_log, dt_bias, lower_bound, by_channel=True).to(output_dtype)


def _gate(
    g: Tensor,
    A_log: Tensor | None,
    bias: Tensor | None,
    lower_bound: float | None,
    *,
    by_channel: bool,
) -> Tensor:
    """Log decays from raw ones (..., heads), or (..., heads, key) by channel, in float32."""
    if A_log is None and lower_bound is None:
        raise InputError("neither A_log nor lower_bound is given; the gate needs one of them")
    wide = torch.promote_types(g.dtype, torch.float32)
    g, rates = g.to(wide), g.new_ones((), dtype=wide)
    if A_log is not None:
        rates = A_log.to(wide).exp().reshape((-1, 1) if by_channel else (-1,))
    if bias is not None:
        g = g + bias.to(wide).reshape(g.shape[-2:] if by_channel else g.shape[-1:])
    if lower_bound is not None:
        return lower_bound * torch.sigmoid(rates * g)
    return -rates * F.softplus(g)


def _attend(
    name: str,
    operands: tuple[Tensor, ...],
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    normalise: bool,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """A delta rule as fla's functions name its options.

    Raises:
        InputError: An option is unknown, or cannot be honoured.
    """
    more = dict(options)
    q, k, v, g, beta = _gated(operands, more)

    def compute(
        given: Sequence[Tensor], states: Tensor | None, bounds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if given[2].shape[1] == 1 and states is not None:
            now = (x.squeeze(1) for x in given)
            y, last = delta_rule_step(states, *now, normalise=normalise, scale=scale)
            return y.unsqueeze(1), last
        q, k, v, g, beta = given
        results = delta_rule(
            q, k, v, g, beta, states, True, normalise=normalise, scale=scale, cu_seqlens=bounds
        )
        assert isinstance(results, tuple)
        return results

    return called(name, compute, (q, k, v, g, beta), v, initial_state, output_final_state, more)


def _gated(operands: tuple[Tensor, ...], more: dict[str, Any]) -> tuple[Tensor, ...]:
    """Operands whose log decays and beta are computed, where fla's kernel is to do that; takes the
    options about it out of `more`."""
    q, k, v, g, beta = operands
    A_log, bias = more.pop("A_log", None), more.pop("dt_bias", None)
    lower_bound, doubled = more.pop("lower_bound", None), more.pop("allow_neg_eigval", False)
    if more.pop("use_gate_in_kernel", False):
        g = _gate(g, A_log, bias, lower_bound, by_channel=g.ndim == 4)
    if more.pop("use_beta_sigmoid_in_kernel", False):
        beta = torch.sigmoid(beta.float()) * (2.0 if doubled else 1.0)
    elif doubled:
        raise InputError("allow_neg_eigval is given without use_beta_sigmoid_in_kernel")
    return q, k, v, g, beta
