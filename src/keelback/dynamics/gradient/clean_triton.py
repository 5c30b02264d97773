"""The noise-free objective of `clean` on a GPU: a sequence at a time, by pairs of its places.

A program holds the pairs (l, s) of one sequence that have the same feature in registers; sums over
blocks of sequences run in a fixed order, so that the result does not vary from call to call.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from keelback.dynamics.gradient.clean import CleanHinge, Swept, sweep_on_cpu
from keelback.dynamics.gradient.triton import match, padded

_BLOCK = 16
"""Sequences that one program takes, one after the other."""

_TOLERANCE = 1e-5


def fits(length: int, dim: int) -> bool:
    """Whether the pairs of a sequence fit a program's registers."""
    return length <= 64 and dim <= 256


@triton.jit
def _clean(  # type: ignore[no-untyped-def]
    features_ptr,
    signs_ptr,
    w_ptr,
    A_ptr,
    margins_ptr,
    dw_ptr,
    dA_ptr,
    samples,
    weight,
    BLOCK: tl.constexpr,
    LENGTH: tl.constexpr,
    DIM: tl.constexpr,
    L: tl.constexpr,
    D: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    replica = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    position = tl.arange(0, L)
    feature = tl.arange(0, D)
    there = position < LENGTH
    causal = (position[:, None] >= position[None, :]) & there[:, None]
    dw = tl.zeros((D,), tl.float32)
    dA = tl.zeros((D,), tl.float32)
    for i in range(BLOCK):
        n = block * BLOCK + i
        if n < samples:
            row = replica * samples + n
            f = tl.load(features_ptr + row * LENGTH + position, mask=there, other=-1)
            logits = tl.load(w_ptr + replica * DIM + f, mask=there, other=0.0)
            A = tl.load(A_ptr + replica * DIM + f, mask=there, other=0.0)
            sign = tl.load(signs_ptr + row)
            log_kept = -(tl.maximum(logits, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(logits))))
            log_kept = tl.where(there, log_kept, 0.0)
            kept = tl.cumsum(log_kept, axis=0)
            source = kept - logits - log_kept
            same = causal & (f[:, None] == f[None, :])
            log_decay = tl.where(same, kept[:, None] - source[None, :], 0.0)
            G = tl.where(same, tl.exp(log_decay), 0.0)
            c = tl.sum(G, axis=1)
            output = tl.sum(A * c, axis=0) / LENGTH
            margin = sign * output
            tl.store(margins_ptr + row, margin)
            if GRADIENT:
                inflow = tl.sum(G * A[:, None], axis=0)
                change = A * c - inflow
                crossing = change - tl.cumsum(change, axis=0)
                g = tl.sigmoid(logits)
                slope = -sign * weight / LENGTH
                da = slope * (inflow * (1 - g) - g * crossing)
                # No branch: threads whose margins differ in the last bit would part at it, and
                # wait for each other for ever.
                inside = there & (tl.zeros((L,), tl.float32) + margin < 1)
                chosen = (f[:, None] == feature[None, :]) & inside[:, None]
                dw += tl.sum(tl.where(chosen, da[:, None], 0.0), axis=0)
                dA += tl.sum(tl.where(chosen, (slope * c)[:, None], 0.0), axis=0)
    if GRADIENT:
        place = replica * tl.num_programs(1) + block
        tl.store(dw_ptr + place * DIM + feature, dw, mask=feature < DIM)
        tl.store(dA_ptr + place * DIM + feature, dA, mask=feature < DIM)


def sweep_on_gpu(features: Tensor, signs: Tensor, w: Tensor, A: Tensor, gradient: bool) -> Swept:
    """One pass over all sequences by the Triton kernel, in float32."""
    replicas, samples, length = features.shape
    dim = w.shape[1]
    blocks = triton.cdiv(samples, _BLOCK)
    margins = torch.empty_like(signs, dtype=torch.float32)
    dw, dA = margins.new_empty(2, replicas, blocks if gradient else 0, dim)
    _clean[(replicas, blocks)](
        features,
        signs,
        w.float(),
        A.float(),
        margins,
        dw,
        dA,
        samples,
        1.0 / samples,
        BLOCK=_BLOCK,
        LENGTH=length,
        DIM=dim,
        L=padded(length),
        D=padded(dim),
        GRADIENT=gradient,
        num_warps=1 if length <= 32 else 4,
    )
    return margins.to(w.dtype), dw.sum(1).to(w.dtype), dA.sum(1).to(w.dtype)


@functools.cache
def agrees(length: int, dim: int, device: str) -> bool:
    """Whether the compiled kernel gives the gradient of the CPU's, tried once per shape."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 2 * _BLOCK + 1, length)
    features = torch.randint(dim, shape, generator=generator, dtype=torch.int32)
    signs = torch.randn(shape[:2], generator=generator).sign()
    w, A = torch.randn(2, 1, dim, generator=generator, dtype=torch.float64)
    expected = sweep_on_cpu(features, signs, w, A, True)
    features, signs, w, A = (part.to(device) for part in (features, signs, w, A))
    found = sweep_on_gpu(features, signs, w, A, True)
    return match(found, expected, _TOLERANCE)


def triton_clean(features: Tensor, signs: Tensor, v: Tensor) -> CleanHinge:
    """Lay out the sequences of a batch of replicas for the kernel."""
    return CleanHinge(features.to(torch.int32).contiguous(), signs.contiguous(), v, sweep_on_gpu)
