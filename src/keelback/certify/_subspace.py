"""Weights of which few numbers are coded: random matrices plus products of two coded factors."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

_BACK = ("out_proj.weight", "o_proj.weight", "down_proj.weight")
"""Projections back to the residual stream: where transformers' layers name them so."""

_RATES = "A_log"
_SMALLEST_SHARE = 4


def rank_of(name: str, shape: Iterable[int], rank: int) -> int:
    """The rank of the coded change of a tensor; 0 where the tensor itself is coded.

    At most a quarter of the smaller side, so that small matrices stay short. Embeddings and heads
    are coded themselves: through them every token is read and predicted. So is whatever is no
    matrix.

    Args:
        name: of the parameter.
        shape: its shape.
        rank: the largest.
    """
    sides = tuple(shape)
    if len(sides) != 2 or "embed" in name or name.startswith("lm_head"):
        return 0
    return max(1, min(rank, min(sides) // _SMALLEST_SHARE))


def shapes_of(model: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is coded: `left` and `right` of a matrix, else the tensor itself.

    Args:
        model: whose parameters they are.
        rank: of `rank_of`; 0 codes all tensors themselves.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        own = rank_of(name, parameter.shape, rank) if rank else 0
        if own:
            rows, columns = parameter.shape
            shapes[f"{name} left"] = (rows, own)
            shapes[f"{name} right"] = (own, columns)
        else:
            shapes[name] = tuple(parameter.shape)
    return shapes


def bases_of(model: nn.Module, rank: int, seed: int) -> dict[str, Float[Tensor, "rows columns"]]:
    """What the products of coded factors are added to, on the model's device.

    Random matrices, those back to the residual stream divided by the square root of the number of
    layers. The logarithms of Mamba's rates start at log 1, ..., log N for each channel, as in every
    Mamba.

    Args:
        model: whose parameters they are.
        rank: of `rank_of`.
        seed: of the random matrices.
    """
    bases = {}
    named = list(model.named_parameters())
    layers = sum(name.endswith(_BACK) for name, _ in named)
    for index, (name, parameter) in enumerate(named):
        if not rank_of(name, parameter.shape, rank):
            continue
        if name.endswith(_RATES):
            states = torch.arange(1, parameter.shape[1] + 1, dtype=torch.float64)
            base = states.log().float().expand(parameter.shape)
        else:
            base = random_matrix(seed, index, parameter.shape)
            if name.endswith(_BACK):
                base = base / math.sqrt(layers)
        bases[name] = base.to(parameter.device)
    return bases


def assemble(
    coded: Mapping[str, Tensor], bases: Mapping[str, Float[Tensor, "rows columns"]]
) -> dict[str, Tensor]:
    """The model's parameters from the coded tensors, differentiable in them.

    Args:
        coded: by the names of `shapes_of`.
        bases: from `bases_of`; empty where all tensors are coded themselves.
    """
    weights = {
        name: torch.addmm(base, coded[f"{name} left"], coded[f"{name} right"])
        for name, base in bases.items()
    }
    factors = {f"{name} {side}" for name in bases for side in ("left", "right")}
    return weights | {name: x for name, x in coded.items() if name not in factors}


def random_matrix(seed: int, index: int, shape: torch.Size) -> Float[Tensor, "rows columns"]:
    """Weights of tensor number `index` from a seed: uniform, of mean 0 and variance 1 / columns.

    From the upper 24 bits of NumPy's Philox counter generator, whose stream is the same on every
    machine and in every version.
    """
    bits = np.random.Philox(key=[seed, index]).random_raw(math.prod(shape)) >> np.uint64(40)
    centred = (bits.astype(np.float64) + 0.5) / 2**24 - 0.5
    values = centred * math.sqrt(12 / shape[1])
    return torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))
