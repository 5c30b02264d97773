"""RWKV's weighted mean of the values so far, whose weights decay."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import computing_dtype, require_shape
from keelback.compiled.watchers import is_transformed, without_autocast
from keelback.recurrence import cpu
from keelback.recurrence._api import diagonal_recurrence


class WkvStates(NamedTuple):
    """Sums over the past, divided by the exponential of `exponent`, each (batch, channels).

    Attributes:
        values: Of the values, weighted.
        weights: Of the weights.
        exponent: The logarithm of the largest weight.

    Examples:
        >>> zero = torch.zeros(1)
        >>> _, states = wkv(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]), zero, zero)
        >>> states
        WkvStates(values=tensor([[4.]]), weights=tensor([[2.]]), exponent=tensor([[0.]]))
    """

    values: Float[Tensor, "batch channels"]
    weights: Float[Tensor, "batch channels"]
    exponent: Float[Tensor, "batch channels"]


def wkv(
    key: Float[Tensor, "batch length channels"],
    value: Float[Tensor, "batch length channels"],
    log_decay: Float[Tensor, " channels"],
    bonus: Float[Tensor, " channels"],
    initial_states: WkvStates | None = None,
) -> tuple[Float[Tensor, "batch length channels"], WkvStates]:
    """The attention of RWKV, versions 4 and before (Peng et al. 2023, arXiv 2305.13048, eq. 16).

        y_t = (sum_{i < t} e^{(t - 1 - i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v)

    with w the log decay and u the bonus. Both sums are diagonal recurrences. They are divided by
    the exponential of the largest exponent so far, on which the result does not depend, and which
    has no gradient.

    Args:
        key: Logarithms of weights, k.
        value: v.
        log_decay: w, which is negative.
        bonus: u, added to the key of the present step.
        initial_states: The states after the steps before; nothing if absent.

    Returns:
        y in the dtype of `value`, and the states after the last step in float32 (in float64 where
        the operands are).

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> zero = torch.zeros(1)
        >>> y, _ = wkv(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]), zero, zero)
        >>> y.flatten()
        tensor([1., 2.])
    """
    require_shape("key", key, ("batch", "length", "channels"))
    require_shape("value", value, key.shape)
    batch, length, channels = key.shape
    require_shape("log_decay", log_decay, (channels,))
    require_shape("bonus", bonus, (channels,))
    operands = {"key": key, "value": value, "log_decay": log_decay, "bonus": bonus}
    if initial_states is None:
        nothing = key.new_zeros(batch, channels, dtype=torch.promote_types(key.dtype, torch.float))
        initial_states = WkvStates(nothing, nothing, torch.full_like(nothing, -1e38))
    for name, state in zip(WkvStates._fields, initial_states, strict=True):
        require_shape(name, state, (batch, channels))
        operands[name] = state
    dtype = computing_dtype(operands)
    with without_autocast(key.device):
        k, v, w, u, *states = (x.to(dtype) for x in operands.values())
        y, after = _means(k, v, w, u, WkvStates(*states))
    return y.to(value.dtype), after if length else WkvStates(*states)


def _means(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, before: WkvStates
) -> tuple[Tensor, WkvStates]:
    """All of one dtype."""
    exponents = _largest(k.detach(), w.detach(), before.exponent.detach())
    earlier, now = exponents[:, :-1], exponents[:, 1:]
    decays = (earlier - now + w).exp()
    weights = (k - now).exp()
    values, total = (
        torch.cat([first[:, None], diagonal_recurrence(decays, new, first)], 1)
        for new, first in ((weights * v, before.values), (weights, before.weights))
    )
    k_now = k + u
    top = torch.maximum(earlier, k_now.detach())
    of_past, of_now = (earlier - top).exp(), (k_now - top).exp()
    y = (of_past * values[:, :-1] + of_now * v) / (of_past * total[:, :-1] + of_now)
    return y, WkvStates(values[:, -1], total[:, -1], exponents[:, -1])


def _largest(k: Tensor, w: Tensor, first: Tensor) -> Tensor:
    """The largest exponent of all weights, before the first step and after each.

    Between them they are rounded up: differences of whole numbers are exact. The last is not, lest
    many short pieces of a sequence round up what they were handed, again and again.
    max(first + w t, max_{i <= t} (k_i + w (t - i))) is a running maximum, plus w t.
    """
    if k.device.type == "cpu" and not is_transformed():
        return torch.cat([first[:, None], cpu.largest(k, w, first)], 1)
    steps = torch.arange(k.shape[1] + 1, dtype=torch.float64, device=k.device)[:, None]
    decayed = w.to(torch.float64) * steps
    entire = torch.cat([first[:, None], k], 1).to(torch.float64)
    found = ((entire - decayed).cummax(1).values + decayed)[:, 1:]
    return torch.cat(
        [first[:, None], found[:, :-1].ceil().to(k.dtype), found[:, -1:].to(k.dtype)], 1
    )
