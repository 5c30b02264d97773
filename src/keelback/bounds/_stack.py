"""Several selective layers on top of each other."""

import math
from collections.abc import Sequence
from typing import TypeVar

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._constants import ClassConstants, ClassFormulas
from keelback.bounds._covering import Ball, Block, scaled
from keelback.bounds._mamba_block import (
    MambaBlockFormulas,
    log_mamba_output_bound,
    mamba_blocks,
)
from keelback.bounds._numbers import Real, exp, like, log
from keelback.bounds._sharpened import (
    count,
    log_output_bound,
    log_token_reach,
    selective_blocks,
)
from keelback.errors import InputError

Layer = TypeVar("Layer", bound=ClassFormulas)


def stack_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with the token norm each of them really meets.

    A layer's tokens are the outputs y_t of the layer below, so B_u of layer l + 1 is the output
    bound of layer l with B_w = 1. Heads of all layers but the last are ignored (set to 1).

    Args:
        layers: the constants of each layer, bottom first; B_u is read from the first only.

    Raises:
        InputError: no layer, layers that differ in T, m or d, or token norms beyond the range.

    Source: docs/studies/bounds.md, Corollary 8.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> [round(layer.B_u, 3) for layer in stack_layers([c, c])]
        [1.0, 10.495]
    """
    if not layers:
        raise InputError("a stack needs at least one layer")
    if any((c.T, c.m, c.d) != (layers[0].T, layers[0].m, layers[0].d) for c in layers):
        raise InputError("the layers of a stack must agree in T, m and d")
    met: list[Layer] = []
    log_norm = log(layers[0].B_u)
    for depth, layer in enumerate(layers):
        _require_range(depth + 1, log_norm)
        one = like(1.0, layer.B_w)
        B_w, M_w = (layer.B_w, layer.M_w) if depth == len(layers) - 1 else (one, one)
        met.append(layer.with_changes(B_u=exp(log_norm), B_w=B_w, M_w=M_w))
        log_norm = log_output_bound(met[-1])
    return met


def stacked_log_rademacher(layers: Sequence[ClassConstants]) -> float:
    """Logarithm of the sharpened Rademacher bound of z = w . y_T after several layers.

    A change of layer l's parameters moves its output sequence, token by token, by at most its
    own reach. Every layer k above passes a change of its tokens on with at most the factor
    B_B B_C B_u^2 (3 S1 + B_u B_q (S1 + S2 + max(s_A, 0) S3)) of layer k. All layers are covered
    together.

    Args:
        layers: the constants of each layer, bottom first, as for `stack_layers`.

    Raises:
        InputError: as for `stack_layers`.

    Source: docs/studies/bounds.md, Corollary 8.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> stacked_log_rademacher([c]) == sharpened_log_rademacher(c)
        True
    """
    return stacked_class(layers).log_rademacher(layers[-1].m)


def stacked_class(
    layers: Sequence[ClassFormulas], *, vocab_size: int = 0, classes: int = 1
) -> CoveredClass:
    """The output bound and the parameters of a stack, those of the top layer first.

    Args:
        layers: as for `stacked_log_rademacher`.
        vocab_size: number of trained embedding rows below the first layer.
        classes: number of rows of the head.
    """
    met = stack_layers(layers)
    log_bound = log_output_bound(met[-1])
    if log_bound == -math.inf:
        return CoveredClass(log_bound, [])
    blocks: list[Block] = []
    log_passed_on = 0 * log(met[-1].B_u)
    for depth, layer in reversed(list(enumerate(met))):
        own = selective_blocks(layer, classes=classes)
        without_head = own if depth == len(met) - 1 else own[1:]
        blocks += [scaled(block, log_passed_on) for block in without_head]
        log_passed_on = log_passed_on + log_token_reach(layer)
    if vocab_size:
        blocks.append(Ball(count(met[0].d), log_passed_on, copies=vocab_size))
    return CoveredClass(log_bound, blocks)


def stacked_mamba_class(
    blocks: Sequence[MambaBlockFormulas], *, vocab_size: int = 0, classes: int = 1
) -> CoveredClass:
    """The output bound and the parameters of Mamba blocks on top of each other.

    A block's tokens are the outputs of the block below, whose B_w is the spectral norm of its
    projection back: for every unit vector a, a . W_out (h * g) = (W_out^T a) . (h * g), so that
    its output has at most the norm of Corollary 9's bound, and every move at most that of its
    table. The projection is a matrix, covered in the spectral norm.

    Args:
        blocks: the constants of each block, bottom first; B_x is read from the first only, and the
            last one's B_w is that of the head and its projection together.
        vocab_size: number of trained embedding rows below the first block.
        classes: number of rows of the head.

    Raises:
        InputError: no block, or token norms beyond the range.

    Source: docs/studies/bounds.md, Corollary 14.
    """
    if not blocks:
        raise InputError("a stack needs at least one layer")
    met = []
    log_norm = log(blocks[0].B_x)
    for depth, block in enumerate(blocks, start=1):
        _require_range(depth, log_norm)
        met.append(block.with_tokens(exp(log_norm)))
        log_norm = log_mamba_output_bound(met[-1])
    if log_norm == -math.inf:
        return CoveredClass(log_norm, [])
    covered: list[Block] = []
    log_passed_on = 0 * log_norm
    for block in reversed(met):
        top = block is met[-1]
        *own, tokens = mamba_blocks(block, vocab_size=1, classes=classes if top else 1)
        if not top:
            size = count(block.selective.d) * count(block.d_model)
            own[0] = Ball(size, own[0].log_reach)
        covered += [scaled(part, log_passed_on) for part in own]
        log_passed_on = log_passed_on + tokens.log_reach
    if vocab_size:
        covered.append(Ball(count(met[0].d_model), log_passed_on, copies=vocab_size))
    return CoveredClass(log_norm, covered)


def _require_range(depth: int, log_norm: Real) -> None:
    if log_norm > math.log(1e60):
        power = float(log_norm) / math.log(10)
        raise InputError(
            f"layer {depth} may meet tokens of norm 10^{power:.0f}; "
            "the stack's bound is of no use beyond 10^60"
        )
