"""The inverse of triangular matrices with ones on the diagonal.

By substitution, block by block: powers of the matrix, which need fewer steps, cancel from 1e18 to 1
where keys are alike.
"""

import torch
from torch import Tensor

_BLOCK = 16


def inverse_of_unit_lower(lower: Tensor) -> Tensor:
    """(1 + lower)^-1 of strictly lower triangular matrices of 16, 32, 64 ... rows."""
    size = lower.shape[-1]
    found = torch.zeros_like(lower)
    blocks = _diagonal(lower, _BLOCK)
    _diagonal(found, _BLOCK).copy_(_by_substitution(blocks))
    width = _BLOCK
    while width < size:
        whole, inverses = _diagonal(lower, 2 * width), _diagonal(found, 2 * width)
        first = inverses[..., :width, :width]
        second = inverses[..., width:, width:]
        inverses[..., width:, :width] = -(second @ (whole[..., width:, :width] @ first))
        width *= 2
    return found


def _diagonal(x: Tensor, width: int) -> Tensor:
    """A view of the blocks on the diagonal: ..., block, width, width."""
    count = x.shape[-1] // width
    cut = x.unflatten(-1, (count, width)).unflatten(-3, (count, width))
    return cut.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _by_substitution(blocks: Tensor) -> Tensor:
    """Row after row, for all matrices at once: these lie along the last axis for it."""
    *many, size, _ = blocks.shape
    lower = blocks.reshape(-1, size, size).movedim(0, -1).contiguous()
    found = torch.zeros_like(lower)
    found.diagonal(dim1=0, dim2=1).fill_(1.0)
    for i in range(1, size):
        found[i, :i] = -(lower[i, :i].unsqueeze(1) * found[:i, :i]).sum(0)
    return found.movedim(-1, 0).reshape(*many, size, size)
