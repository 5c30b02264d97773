"""A stand-in for flash-linear-attention (fla): the functions of its delta rules, by keelback."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.resets import reset_of
from keelback.delta import delta_rule, delta_rule_step
from keelback.errors import InputError
from keelback.integrations._delta import is_faster_than_fla
from keelback.integrations._replacement import Replacement
from keelback.integrations._stand_in import Contents, is_installed, replace_in_package, stand_in
from keelback.integrations._widths import in_one_width

#: Options of fla's functions that say how it computes, and not what.
_HOW = ("chunk_size", "chunk_indices", "cu_seqlens_cpu", "safe_gate", "disable_recompute")
#: Those that are refused unless they are off: they change what is computed or returned.
_REFUSED = ("cp_context", "return_intermediate_states", "head_first", "gv")


def provide_fla() -> Replacement:
    """Let code that imports delta rules from flash-linear-attention (`fla`) get keelback's.

    `fla.ops.gated_delta_rule` then has `chunk_gated_delta_rule` and
    `fused_recurrent_gated_delta_rule`, `fla.ops.kda` has `chunk_kda` and `fused_recurrent_kda`,
    `fla.ops.kda.gate` has `fused_kda_gate`, and `fla.ops` has the first four. Nothing else of fla
    is there: importing that fails, as it does without fla. Where fla is installed its functions are
    replaced instead; on a GPU only where keelback's kernels were measured to be faster, which is in
    half precision with one log decay per head and sequences that are not packed. Code that has
    imported the functions before the call keeps those that it has. An option that keelback cannot
    honour raises an `InputError` with its name.

    Examples:
        >>> with provide_fla():
        ...     from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    """
    by_head: dict[str, Any] = {
        "chunk_gated_delta_rule": chunk_gated_delta_rule,
        "fused_recurrent_gated_delta_rule": fused_recurrent_gated_delta_rule,
    }
    by_channel: dict[str, Any] = {
        "chunk_kda": chunk_kda,
        "fused_recurrent_kda": fused_recurrent_kda,
    }
    gate = {"fused_kda_gate": fused_kda_gate}
    contents: Contents = {
        "fla": {},
        "fla.ops": {**by_head, **by_channel},
        "fla.ops.gated_delta_rule": by_head,
        "fla.ops.kda": by_channel,
        "fla.ops.kda.gate": gate,
    }
    if not is_installed("fla"):
        return stand_in(contents)
    return replace_in_package(contents, _the_faster)


def _the_faster(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Ours, but on a GPU theirs unless `is_faster_than_fla`; nor may an option be given there that
    leaves the measured path, such as `cu_seqlens`."""
    names = signature(ours)

    @wraps(theirs)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not any(isinstance(x, Tensor) and x.is_cuda for x in given):
            return ours(*args, **kwargs)
        if not set(kwargs) <= {*names.parameters, *_HOW}:
            return theirs(*args, **kwargs)
        found = names.bind(*args, **kwargs).arguments
        q, v, g = found["q"], found["v"], found.get("g")
        if g is None or found.get("gk") is not None or found.get("gv") is not None:
            return theirs(*args, **kwargs)
        return (ours if is_faster_than_fla(q, v, g) else theirs)(*args, **kwargs)

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


def fused_kda_gate(
    g: Float[Tensor, "*rows channels"] | Float[Tensor, "*rows heads key"],
    A_log: Tensor,
    dt_bias: Tensor | int | None = None,
    lower_bound: float | None = None,
    output_dtype: torch.dtype = torch.float32,
    *,
    head_k_dim: int | None = None,
    g_bias: Tensor | None = None,
) -> Float[Tensor, "*rows heads key"]:
    """The log decays of Kimi delta attention, from what its layer projects: -exp(A_log)
    softplus(g + dt_bias), or lower_bound sigmoid(exp(A_log) (g + dt_bias)).

    In older releases the third argument is the key's size, by which the last axis of `g` is split,
    and `g_bias` the bias.
    """
    if isinstance(dt_bias, int):
        head_k_dim, dt_bias = dt_bias, g_bias
    if head_k_dim is not None:
        g = g.reshape(*g.shape[:-1], -1, head_k_dim)
    return _gate(g, A_log.reshape(-1, 1), dt_bias, lower_bound).to(output_dtype)


def _gate(g: Tensor, A_log: Tensor, bias: Tensor | None, lower_bound: float | None) -> Tensor:
    """Log decays from raw ones, in float32; the rates are (heads,), or (heads, 1) for channels."""
    wide = torch.promote_types(g.dtype, torch.float32)
    g, rates = g.to(wide), A_log.to(wide).exp()
    if bias is not None:
        g = g + bias.to(wide).reshape(g.shape[-rates.ndim :])
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
    more = {key: value for key, value in options.items() if key not in _HOW}
    bounds, sizes = more.pop("cu_seqlens", None), operands[2].shape
    value_first = more.pop("state_v_first", False) or more.pop("transpose_state_layout", False)
    q, k, v, g, beta = _gated(operands, more)
    refused = [key for key, value in more.items() if key not in _REFUSED or value]
    if refused:
        raise InputError(f"keelback's {name} does not take {', '.join(refused)}")
    if initial_state is not None and value_first:
        initial_state = initial_state.mT
    given = in_one_width(q, k, v, g, beta, initial_state)
    if bounds is None:
        y, last = _whole(given, scale, normalise)
    elif sizes[0] != 1:
        raise InputError(f"cu_seqlens is given with a batch of {sizes[0]}; it should be 1")
    else:
        y, last = _packed(given, bounds, scale, normalise, output_final_state)
    last = last.mT.contiguous() if value_first else last
    return y.to(operands[2].dtype), last if output_final_state else None


def _gated(operands: tuple[Tensor, ...], more: dict[str, Any]) -> tuple[Tensor, ...]:
    """Operands whose log decays and beta are computed, where fla's kernel is to do that; takes the
    options about it out of `more`."""
    q, k, v, g, beta = operands
    A_log, bias = more.pop("A_log", None), more.pop("dt_bias", None)
    lower_bound, doubled = more.pop("lower_bound", None), more.pop("allow_neg_eigval", False)
    if more.pop("use_gate_in_kernel", False):
        if A_log is None:
            raise InputError("use_gate_in_kernel is given without A_log; it should be there")
        rates = A_log.reshape(-1, 1) if g.ndim == 4 else A_log.reshape(-1)
        g = _gate(g, rates, bias, lower_bound)
    if more.pop("use_beta_sigmoid_in_kernel", False):
        beta = torch.sigmoid(beta.float()) * (2.0 if doubled else 1.0)
    elif doubled:
        raise InputError("allow_neg_eigval is given without use_beta_sigmoid_in_kernel")
    return q, k, v, g, beta


def _whole(given: list[Any], scale: float | None, normalise: bool) -> tuple[Tensor, Tensor]:
    """Sequences of one length."""
    q, k, v, g, beta, states = given
    if v.shape[1] == 1 and states is not None:
        now = [x.squeeze(1) for x in (q, k, v, g, beta)]
        y, last = delta_rule_step(states, *now, normalise=normalise, scale=scale)
        return y.unsqueeze(1), last
    results = delta_rule(
        q, k, v, g, beta, states, return_final_states=True, normalise=normalise, scale=scale
    )
    assert isinstance(results, tuple)
    return results


def _packed(
    given: list[Any], bounds: Tensor, scale: float | None, normalise: bool, wants_states: bool
) -> tuple[Tensor, Tensor]:
    """Sequences one behind the other, each with states of its own where there are some."""
    *sequences, states = given
    reset_of(bounds, None, sequences[2])  # Refuses bounds that do not fit the sequences.
    if states is None and not wants_states:
        q, k, v, g, beta = sequences
        results = delta_rule(
            q, k, v, g, beta, None, True, normalise=normalise, scale=scale, cu_seqlens=bounds
        )
        assert isinstance(results, tuple)
        return results
    ends = [int(bound) for bound in bounds]
    if states is not None and len(states) != len(ends) - 1:
        raise InputError(
            f"initial_state is of {len(states)} sequences; cu_seqlens has {len(ends) - 1}"
        )
    found = [
        _whole(
            [
                *(x[:, start:stop] for x in sequences),
                None if states is None else states[i : i + 1],
            ],
            scale,
            normalise,
        )
        for i, (start, stop) in enumerate(pairwise(ends))
    ]
    outputs, lasts = zip(*found, strict=True)
    return torch.cat(outputs, 1), torch.cat(lasts)
