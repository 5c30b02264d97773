"""Looking up token vectors, with a backward pass that does not add up padding one by one."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

LARGE_VOCABULARY = 1000
"""From so many tokens on, the gradient of a GPU's lookup is worth computing in two parts."""

_FREQUENT = 0
"""The token whose gradients are summed apart: WordPiece's padding."""


def look_up(
    tokens: Int[Tensor, "batch length"], vectors: Float[Tensor, "vocab d_model"]
) -> Float[Tensor, "batch length d_model"]:
    """`vectors[tokens]`.

    On a GPU PyTorch adds up the gradients of one token one after the other, which takes longer than
    the rest of a training step where half of the tokens are padding. With a large vocabulary the
    gradients of token 0 are summed by a matrix product instead; the result differs in rounding.
    """
    if tokens.is_cuda and len(vectors) >= LARGE_VOCABULARY:
        return look_up_by_parts(tokens, vectors)
    return F.embedding(tokens, vectors)


def look_up_by_parts(
    tokens: Int[Tensor, "batch length"], vectors: Float[Tensor, "vocab d_model"]
) -> Float[Tensor, "batch length d_model"]:
    """`vectors[tokens]`, whose gradient is summed apart for token 0, on any device."""
    one = (tokens.unsqueeze(0), vectors.unsqueeze(0))
    found: Tensor = _LookUp.apply(*one)  # type: ignore[no-untyped-call]
    return found.squeeze(0)


class _LookUp(torch.autograd.Function):
    """Tokens `(replicas, ...)` in tables `(replicas, vocab, d_model)`; vmap merges its axis."""

    @staticmethod
    def forward(tokens: Tensor, vectors: Tensor) -> Tensor:
        return F.embedding(_rows(tokens, vectors.shape[1]), vectors.flatten(0, 1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        tokens, vectors = inputs
        ctx.save_for_backward(tokens)
        ctx.shape = vectors.shape

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        replicas, vocabulary, d_model = ctx.shape
        flat, gradient = tokens.flatten(1), outputs[0].reshape(replicas, -1, d_model)
        frequent = flat == _FREQUENT
        sums = torch.bmm(frequent.to(gradient.dtype).unsqueeze(1), gradient).squeeze(1)
        others = torch.nonzero(~frequent.flatten()).squeeze(1)
        table = torch.ops.aten.embedding_dense_backward(
            gradient.reshape(-1, d_model)[others],
            _rows(flat, vocabulary).flatten()[others],
            replicas * vocabulary,
            -1,
            False,
        ).view(ctx.shape)
        table[:, _FREQUENT] += sums
        return None, table

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], tokens: Tensor, vectors: Tensor
    ) -> tuple[Tensor, int]:
        def merged(x: Tensor, axis: int | None) -> Tensor:
            apart = x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
            return apart.flatten(0, 1)

        rows, tables = merged(tokens, in_dims[0]), merged(vectors, in_dims[1])
        found: Tensor = _LookUp.apply(rows, tables)  # type: ignore[no-untyped-call]
        return found.unflatten(0, (info.batch_size, -1)), 0


def _rows(tokens: Tensor, vocabulary: int) -> Tensor:
    """Each replica's tokens as rows of all replicas' tables, one below the other."""
    first = torch.arange(len(tokens), device=tokens.device) * vocabulary
    return tokens.long() + first.view(-1, *[1] * (tokens.ndim - 1))
