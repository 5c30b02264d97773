"""The closed-form gradient of gated SSMs as one fused GPU kernel.

A program takes a block of sequences of one replica and holds W_O and its gradient in registers;
a sequence is read once, and one beyond the hinge stops after the forward pass. Partial gradients
are summed over blocks in a fixed order, so that the result does not vary from call to call.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from keelback.dynamics.gated import class_readout
from keelback.dynamics.gradient.objective import HingeStep
from keelback.dynamics.gradient.torch import TorchHinge

_BLOCK = 16
"""Sequences that one program takes, one after the other."""

_WARPS = 2

_PRECISION = "tf32x3"
"""Products in three TF32 parts, which agree with float64 to 1e-6. Do not use "ieee": Triton 3.6
compiles the kernel to a wrong gradient of w with it, which `agrees` would catch."""

_TOLERANCE = 1e-4


def fits(length: int, dim: int, width: int) -> bool:
    """Whether a sequence and a readout of this size fit a program's registers."""
    hidden, weights = padded(length) * padded(width), padded(width) * padded(dim)
    return length <= 64 and dim <= 64 and max(hidden, weights) <= 8192


def padded(size: int) -> int:
    """The size of a block that holds so many, as Triton's matrix products want it."""
    return max(16, triton.next_power_of_2(size))


@triton.jit
def _hinge(  # type: ignore[no-untyped-def]
    tokens_ptr,
    scores_ptr,
    signs_ptr,
    w_ptr,
    W_ptr,
    v_ptr,
    margins_ptr,
    dw_ptr,
    dW_ptr,
    samples,
    weight,
    BLOCK: tl.constexpr,
    LENGTH: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    L: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    GRADIENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    replica = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    position = tl.arange(0, L)
    feature = tl.arange(0, D)
    unit = tl.arange(0, M)
    causal = position[:, None] >= position[None, :]
    in_tokens = (position[:, None] < LENGTH) & (feature[None, :] < DIM)
    in_scores = causal & (position[:, None] < LENGTH)
    at_tokens = position[:, None] * DIM + feature[None, :]
    at_scores = position[:, None] * LENGTH + position[None, :]
    at_W = unit[:, None] * DIM + feature[None, :]
    in_W = (unit[:, None] < WIDTH) & (feature[None, :] < DIM)
    w = tl.load(w_ptr + replica * DIM + feature, mask=feature < DIM, other=0.0)
    W = tl.load(W_ptr + replica * WIDTH * DIM + at_W, mask=in_W, other=0.0)
    v = tl.load(v_ptr + unit, mask=unit < WIDTH, other=0.0)
    dw = tl.zeros((D,), tl.float32)
    dW = tl.zeros((M, D), tl.float32)
    for i in range(BLOCK):
        n = block * BLOCK + i
        there = n < samples
        row = replica * samples + n
        x = tl.load(tokens_ptr + row * LENGTH * DIM + at_tokens, mask=in_tokens & there, other=0.0)
        scores = tl.load(
            scores_ptr + row * LENGTH * LENGTH + at_scores, mask=in_scores & there, other=0.0
        )
        sign = tl.load(signs_ptr + row, mask=there, other=0.0)
        logits = tl.sum(x * w[None, :], axis=1)
        log_kept = -(tl.maximum(logits, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(logits))))
        kept = tl.cumsum(log_kept, axis=0)
        source = kept - logits - log_kept
        log_decay = tl.where(causal, kept[:, None] - source[None, :], 0.0)
        P = tl.exp(log_decay) * scores
        y = tl.dot(P, x, input_precision=PRECISION)
        hidden = tl.dot(y, tl.trans(W), input_precision=PRECISION)
        output = tl.sum(tl.sum(tl.maximum(hidden, 0.0) * v[None, :], axis=1), axis=0) / LENGTH
        margin = sign * output
        tl.store(margins_ptr + row, margin, mask=there)
        if GRADIENT:
            slope = -sign * weight / LENGTH
            # No branch: threads whose margins differ in the last bit would part at it, and wait
            # for each other for ever.
            inside = tl.zeros((L, M), tl.float32) + margin < 1
            active = tl.where(inside & (hidden > 0), slope * v[None, :], 0.0)
            dW += tl.dot(tl.trans(active), y, input_precision=PRECISION)
            u = tl.dot(active, W, input_precision=PRECISION)
            through = P * tl.dot(u, tl.trans(x), input_precision=PRECISION)
            inflow = tl.sum(through, axis=0)
            change = tl.sum(through, axis=1) - inflow
            crossing = change - tl.cumsum(change, axis=0)
            g = tl.sigmoid(logits)
            da = inflow * (1 - g) - g * crossing
            dw += tl.sum(x * da[:, None], axis=0)
    if GRADIENT:
        place = replica * tl.num_programs(1) + block
        tl.store(dw_ptr + place * DIM + feature, dw, mask=feature < DIM)
        tl.store(dW_ptr + place * WIDTH * DIM + at_W, dW, mask=in_W)


@dataclass(frozen=True)
class _TritonHinge:
    """The data of a batch of replicas on a GPU; see `HingeObjective`."""

    tokens: Tensor
    scores: Tensor
    signs: Tensor
    v: Tensor

    def margins(self, w: Tensor, W_O: Tensor) -> Tensor:
        """Compute z F(X) of every sample."""
        return self._run(w, W_O, gradient=False)[0]

    def gradient(self, w: Tensor, W_O: Tensor) -> HingeStep:
        """Compute the mean hinge loss and its gradient."""
        margins, dw, dW = self._run(w, W_O, gradient=True)
        return HingeStep(torch.relu(1 - margins).mean(1), dw.sum(1), dW.sum(1))

    def keep(self, replicas: Tensor) -> "_TritonHinge":
        """Return the same data for these replicas alone."""
        return replace(
            self,
            tokens=self.tokens[replicas],
            scores=self.scores[replicas],
            signs=self.signs[replicas],
        )

    def _run(self, w: Tensor, W_O: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        replicas, samples, length, dim = self.tokens.shape
        width = W_O.shape[1]
        blocks = triton.cdiv(samples, _BLOCK)
        margins = torch.empty_like(self.signs)
        parts = blocks if gradient else 0
        dw = w.new_empty(replicas, parts, dim)
        dW = w.new_empty(replicas, parts, width, dim)
        _hinge[(replicas, blocks)](
            self.tokens,
            self.scores,
            self.signs,
            w.contiguous(),
            W_O.contiguous(),
            self.v,
            margins,
            dw,
            dW,
            samples,
            1.0 / samples,
            BLOCK=_BLOCK,
            LENGTH=length,
            DIM=dim,
            WIDTH=width,
            L=padded(length),
            D=padded(dim),
            M=padded(width),
            GRADIENT=gradient,
            PRECISION=_PRECISION,
            num_warps=_WARPS,
        )
        return margins, dw, dW


def triton_hinge(tokens: Tensor, signs: Tensor, v: Tensor, scores: Tensor) -> _TritonHinge:
    """Lay out the data of a batch of replicas for the kernel."""
    return _TritonHinge(
        tokens.contiguous(), scores.contiguous(), signs.contiguous(), v.contiguous()
    )


@functools.cache
def agrees(length: int, dim: int, width: int, device: str) -> bool:
    """Whether the compiled kernel gives the gradient of the plain form, tried once a shape.

    Compilers change; a kernel that trains tens of thousands of models is checked where it runs.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples = 2 * _BLOCK + 1
    tokens, w, W_O = normal(1, samples, length, dim), normal(1, dim), normal(1, width, dim)
    tokens, w = tokens / dim**0.5, w / dim**0.5
    signs, v = normal(1, samples).sign(), class_readout(width)[:, 0].double()
    expected = TorchHinge(tokens, signs, v, tokens @ tokens.mT).gradient(w, W_O)
    tokens, signs, v, w, W_O = (part.float().to(device) for part in (tokens, signs, v, w, W_O))
    found = triton_hinge(tokens, signs, v, tokens @ tokens.mT).gradient(w, W_O)
    return match((found.w, found.W_O), (expected.w, expected.W_O), _TOLERANCE)


def match(found: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float) -> bool:
    """Whether each result is what the CPU has in float64, to this share of its norm."""
    return all(
        bool((ours.double().cpu() - theirs).norm() <= tolerance * theirs.norm())
        for ours, theirs in zip(found, expected, strict=True)
    )
