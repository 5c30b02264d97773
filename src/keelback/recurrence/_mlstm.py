"""The mLSTM: a matrix that decays, with a normaliser, by the chunks of the scan by heads."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import computing_dtype, finite_scale, require_shape
from keelback.compiled.watchers import without_autocast
from keelback.ssd import gated_linear_attention

#: Logs of forget gates below it are raised to it: sums of them stay exact in float64.
LOWEST_LOG = -1e4
Backend = Literal["reference", "cpu", "cuda"]


class MlstmStates(NamedTuple):
    """The matrix memory and its normaliser, divided by the exponential of `exponent`.

    Attributes:
        memory: Sum of k v^T, weighted: (batch, heads, key, value).
        normaliser: Sum of k with the same weights: (batch, heads, key).
        exponent: Logarithm of the largest weight, (batch, heads).

    Examples:
        >>> ones, gates = torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1)
        >>> _, states = mlstm(ones, ones, ones, gates, gates)
        >>> states.memory.item(), states.normaliser.item(), states.exponent.item()
        (2.0, 2.0, 0.0)
    """

    memory: Float[Tensor, "batch heads key value"]
    normaliser: Float[Tensor, "batch heads key"]
    exponent: Float[Tensor, "batch heads"]


def mlstm(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    log_input: Float[Tensor, "batch length heads"],
    log_forget: Float[Tensor, "batch length heads"],
    initial_states: MlstmStates | None = None,
    *,
    scale: float | None = None,
    epsilon: float = 0.0,
    backend: Backend | None = None,
) -> tuple[Float[Tensor, "batch length heads value"], MlstmStates]:
    """The mLSTM without its output gate (Beck et al. 2024, arXiv 2405.04517).

        C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t
        y_t = scale C_t^T q_t / max(|scale n_t . q_t|, 1)

    per head, where `log_input` and `log_forget` are the logarithms of i and f. All is divided by
    exp(m_t), m_t = max(log f_t + m_{t-1}, log i_t), so that no weight overflows; y depends on m_t
    by `epsilon` alone. Memory and normaliser are one `keelback.ssd.gated_linear_attention` with
    one more number per value; on a GPU that is computed in PyTorch's matrix products.
    Differentiable in every operand and state. bfloat16 and float16 are computed in float32.

    Args:
        q: The queries.
        k: The keys.
        v: The values.
        log_input: Any size.
        log_forget: log sigmoid of the gate's logit in the layers of xLSTM. Below -10,000 it counts
            as -10,000, and has no gradient.
        initial_states: The states after the steps before; zeros, with m = 0, if absent.
        scale: By what the queries are multiplied; one over the root of the key's size if absent.
        epsilon: Added to the denominator after the division by exp(m_t), as layers do that guard
            it; the definition has none.
        backend: As in `gated_linear_attention`.

    Returns:
        y in the dtype of v, and the states after the last step in float32 (in float64 where the
        operands are).

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> q, k, v = torch.randn(3, 2, 100, 4, 16)
        >>> gates = torch.randn(2, 2, 100, 4)
        >>> y, states = mlstm(q, k, v, gates[0], torch.nn.functional.logsigmoid(gates[1]))
        >>> y.shape, states.memory.shape
        (torch.Size([2, 100, 4, 16]), torch.Size([2, 4, 16, 16]))
    """
    given, states = _checked(q, k, v, log_input, log_forget, initial_states, ("batch", "length"))
    if not v.shape[1]:
        return v.clone(), states
    with without_autocast(v.device):
        queries, keys, values, logs, decays = given
        m, weights, moved = _stabilised(logs, decays.clamp(min=LOWEST_LOG), states.exponent)
        sums, last = gated_linear_attention(
            queries * finite_scale(scale, k),
            keys,
            torch.cat([values, torch.ones_like(values[..., :1])], -1),
            moved,
            weights,
            _joined(states),
            True,
            backend=backend,
        )
        return _divided(sums, m, epsilon).to(v.dtype), _taken_apart(last, m[:, -1])


def mlstm_step(
    states: MlstmStates,
    q: Float[Tensor, "batch heads key"],
    k: Float[Tensor, "batch heads key"],
    v: Float[Tensor, "batch heads value"],
    log_input: Float[Tensor, "batch heads"],
    log_forget: Float[Tensor, "batch heads"],
    *,
    scale: float | None = None,
    epsilon: float = 0.0,
) -> tuple[Float[Tensor, "batch heads value"], MlstmStates]:
    """Advance `mlstm` by one position: the output there, and the new states.

    The operands are those of `mlstm` without the axis of the length; `states` is left as it is.
    It is computed in PyTorch's operations, with gradients through output and states.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> _, states = mlstm(*torch.randn(3, 1, 8, 2, 4), *-torch.ones(2, 1, 8, 2))
        >>> y, states = mlstm_step(states, *torch.randn(3, 1, 2, 4), *-torch.ones(2, 1, 2))
        >>> y.shape, states.memory.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 4, 4]))
    """
    given, (memory, normaliser, exponent) = _checked(
        q, k, v, log_input, log_forget, states, ("batch",)
    )
    with without_autocast(v.device):
        query, key, value, log, decay = given
        kept = decay.clamp(min=LOWEST_LOG) + exponent
        m = torch.maximum(kept, log)
        kept, written = (kept - m).exp().unsqueeze(-1), (log - m).exp().unsqueeze(-1)
        key, query = key * written, query * finite_scale(scale, k)
        normaliser = torch.addcmul(key, kept, normaliser)
        memory = torch.addcmul(kept.unsqueeze(-1) * memory, key.unsqueeze(-1), value.unsqueeze(-2))
        above = (query.unsqueeze(-2) @ memory).squeeze(-2)
        below = (query * normaliser).sum(-1).abs()
        below = torch.maximum(below, (-m).exp()) + epsilon
        return (above / below.unsqueeze(-1)).to(v.dtype), MlstmStates(memory, normaliser, m)


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    states: MlstmStates | None,
    rows: tuple[str, ...],
) -> tuple[list[Tensor], MlstmStates]:
    """Operands and states in the dtype that is computed in, where `rows` are axes before heads."""
    require_shape("v", v, (*rows, "heads", "value"))
    *sizes, heads, value = v.shape
    require_shape("k", k, (*sizes, heads, "key"))
    require_shape("q", q, tuple(k.shape))
    require_shape("log_input", log_input, (*sizes, heads))
    require_shape("log_forget", log_forget, (*sizes, heads))
    operands: dict[str, Any] = {
        "v": v, "q": q, "k": k, "log_input": log_input, "log_forget": log_forget,
    }  # fmt: skip
    if states is not None:
        shape = (v.shape[0], heads, k.shape[-1])
        require_shape("memory", states.memory, (*shape, value))
        require_shape("normaliser", states.normaliser, shape)
        require_shape("exponent", states.exponent, shape[:2])
        operands |= dict(zip(MlstmStates._fields, states, strict=True))
    dtype = computing_dtype(operands)
    given = [x.to(dtype) for x in (q, k, v, log_input, log_forget)]
    if states is None:
        shape = (v.shape[0], heads, k.shape[-1])
        zeros = [v.new_zeros(size, dtype=dtype) for size in ((*shape, value), shape, shape[:2])]
        return given, MlstmStates(*zeros)
    return given, MlstmStates(*(x.to(dtype) for x in states))


def _one(exponent: Tensor) -> Tensor:
    """exp(exponent - itself): one, whose gradient is that of the exponent."""
    return (exponent - exponent.detach()).exp()


def _divided(sums: Tensor, m: Tensor, epsilon: float) -> Tensor:
    """The sums of values over those of weights, both divided by exp(m)."""
    above, below = sums[..., :-1], sums[..., -1].abs()
    below = torch.maximum(below, (-m.detach()).exp())
    if epsilon:
        below = below + epsilon * _one(m)
    return above / below.unsqueeze(-1)


def _stabilised(logs: Tensor, decays: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m after each step, and weights and log decays once all is divided by exp(m).

    m_t - F_t = max(m_0, max_{s <= t} (log i_s - F_s)), with F the sum of the log decays so far, is
    a running maximum: both logs are differences from it, and never positive. In their gradients m
    is a constant.
    """
    total = decays.double().cumsum(1)
    above = logs.double() - total
    top = torch.maximum(above.cummax(1).values, first.double().unsqueeze(1))
    tops = torch.cat([first.detach().double().unsqueeze(1), top.detach()], 1)
    weights = ((above.detach() - tops[:, 1:]).to(logs.dtype) + (logs - logs.detach())).exp()
    moved = (tops[:, :-1] - tops[:, 1:]).to(logs.dtype) + (decays - decays.detach())
    return (total + top).to(logs.dtype), weights, moved


def _joined(states: MlstmStates) -> Tensor:
    """(batch, heads, value + 1, key), with the gradient of the exponent."""
    rows = torch.cat([states.memory.mT, states.normaliser.unsqueeze(-2)], -2)
    return rows * _one(states.exponent)[..., None, None]


def _taken_apart(rows: Tensor, exponent: Tensor) -> MlstmStates:
    """Such rows as states that are divided by exp(exponent)."""
    rows = rows * _one(-exponent)[..., None, None]
    return MlstmStates(rows[..., :-1, :].mT.contiguous(), rows[..., -1, :], exponent)
