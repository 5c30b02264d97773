"""Gated linear attention on the CPU in float32, by the kernels of the delta rule without erasing.

There the weights are beta, and states have their keys first.
"""

from torch import Tensor

from keelback.delta import _operands as rules
from keelback.delta.cpu.launch import run
from keelback.delta.cpu.launch import run_backward as run_backward_of_rule
from keelback.delta.cpu.segments import kept_shapes
from keelback.ssd._attention_operands import Operands


def _as_rule(given: Operands[Tensor]) -> rules.Operands[Tensor]:
    v = given.v if given.v.stride(-1) == 1 else given.v.contiguous()
    weights = v.new_ones(v.shape[:-1]) if given.weights is None else given.weights
    start = None if given.initial_states is None else given.initial_states.mT.contiguous()
    return rules.Operands(given.q, given.k, v, given.g, weights, start, given.reset)


def _run(rule: rules.Operands[Tensor], states: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and last states; fills those before segments if they are wanted."""
    sizes = rules.DeltaSizes.of(rule)
    y = rule.v.new_empty(rule.v.shape)
    last = rule.v.new_empty(sizes.batch, sizes.heads, sizes.key, sizes.value)
    run(rule, sizes, False, 1.0, (y, last, None, states), erases=False)
    return y, last


def run_forward(given: Operands[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and last states of an attention that is not empty."""
    y, last = _run(_as_rule(given), None)
    return y, last.mT.contiguous()


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, g, the weights and the initial states."""
    rule = _as_rule(given)
    states = rule.v.new_empty(kept_shapes(rule.v.shape, rule.k.shape[-1])[1])
    _run(rule, states)
    dlast = None if dlast is None else dlast.mT
    found = run_backward_of_rule(rule, (rule.v, states), dy, dlast, False, 1.0, erases=False)
    dweights = None if given.weights is None else found.beta
    dstart = None if found.initial_states is None else found.initial_states.mT
    return found.q, found.k, found.v, found.g, dweights, dstart
