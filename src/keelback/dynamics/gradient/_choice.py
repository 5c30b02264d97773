"""Which implementation computes the objective of a batch of gated SSMs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from keelback.dynamics.gradient.objective import HingeObjective
from keelback.dynamics.gradient.torch import TorchHinge
from keelback.errors import InputError, JobError


def hinge_objective(
    tokens: Float[Tensor, "replicas samples length dim"],
    signs: Float[Tensor, "replicas samples"],
    v: Float[Tensor, " width"],
    mixing: Float[Tensor, "replicas dim dim"] | None = None,
    *,
    backend: str | None = None,
) -> HingeObjective:
    """Prepare the data of a batch of replicas for `backend`.

    Args:
        tokens: noisy tokens of every replica.
        signs: z, +1 or -1.
        v: output weights, shared by all replicas.
        mixing: `W_B^T W_C` of every replica; the identity where left out.
        backend: "torch", "numba" (CPU) or "triton" (NVIDIA GPU); left out, the fastest that the
            device and dtype allow.

    Raises:
        InputError: for a backend that does not exist or does not run on the tokens' device.
        JobError: the GPU kernel was asked for and does not give the right gradient here.
    """
    chosen = _fastest(tokens, len(v)) if backend is None else backend
    queries = tokens if mixing is None else tokens @ mixing.mT[:, None]
    scores = queries @ tokens.mT
    if chosen == "torch":
        return TorchHinge(tokens, signs, v, scores)
    if chosen == "numba":
        if tokens.device.type != "cpu" or tokens.dtype != torch.float32:
            raise InputError("gated SSM: the numba backend takes float32 tokens on the CPU")
        from keelback.dynamics.gradient.numba import numba_hinge

        return numba_hinge(tokens, signs, v, scores)
    if chosen == "triton":
        if tokens.device.type != "cuda" or tokens.dtype != torch.float32:
            raise InputError("gated SSM: the triton backend takes float32 tokens on an NVIDIA GPU")
        from keelback.dynamics.gradient.triton import agrees, triton_hinge

        if not agrees(tokens.shape[2], tokens.shape[3], len(v), str(tokens.device)):
            raise JobError(
                "gated SSM: the GPU kernel, as Triton compiles it here, does not give the right "
                'gradient; use backend "torch"'
            )
        return triton_hinge(tokens, signs, v, scores)
    raise InputError(f"gated SSM: backend is torch, numba or triton, not {chosen!r}")


def clean_objective(
    features: Int[Tensor, "replicas samples length"],
    signs: Float[Tensor, "replicas samples"],
    v: Float[Tensor, " width"],
    dim: int,
    *,
    backend: str | None = None,
) -> HingeObjective:
    """Prepare sequences without noise, and with W_B^T W_C = I, for `backend`.

    Args:
        features: the feature of every token.
        signs: z, +1 or -1.
        v: output weights, shared by all replicas.
        dim: number of features.
        backend: "torch" (the general form, on tokens), "numba" (CPU) or "triton" (NVIDIA GPU);
            left out, the fastest that the device allows.

    Raises:
        InputError: for a backend that does not exist or does not run on the features' device.
        JobError: the GPU kernel was asked for and does not give the right gradient here.
    """
    cuda = features.device.type == "cuda"
    chosen = backend
    if chosen is None:
        chosen = "numba" if features.device.type == "cpu" else "torch"
        if cuda:
            from keelback.dynamics.gradient.clean_triton import agrees, fits

            shape = (features.shape[2], dim)
            chosen = "triton" if fits(*shape) and agrees(*shape, str(features.device)) else "torch"
    if chosen == "torch":
        tokens = one_hot(features.long(), dim).double()
        return TorchHinge(tokens, signs.double(), v.double(), tokens @ tokens.mT)
    if chosen == "numba":
        if features.device.type != "cpu":
            raise InputError("gated SSM: the numba backend takes features on the CPU")
        from keelback.dynamics.gradient.clean import CleanHinge, sweep_on_cpu

        return CleanHinge(features.to(torch.int32).contiguous(), signs, v, sweep_on_cpu)
    if chosen == "triton":
        if not cuda:
            raise InputError("gated SSM: the triton backend takes features on an NVIDIA GPU")
        from keelback.dynamics.gradient.clean_triton import agrees, triton_clean

        if not agrees(features.shape[2], dim, str(features.device)):
            raise JobError(
                "gated SSM: the GPU kernel, as Triton compiles it here, does not give the right "
                'gradient; use backend "torch"'
            )
        return triton_clean(features, signs, v)
    raise InputError(f"gated SSM: backend is torch, numba or triton, not {chosen!r}")


def _fastest(tokens: Tensor, width: int) -> str:
    if tokens.dtype != torch.float32:
        return "torch"
    if tokens.device.type == "cpu":
        return "numba"
    if tokens.device.type == "cuda":
        from keelback.dynamics.gradient.triton import agrees, fits

        shape = (tokens.shape[2], tokens.shape[3], width)
        return "triton" if fits(*shape) and agrees(*shape, str(tokens.device)) else "torch"
    return "torch"
