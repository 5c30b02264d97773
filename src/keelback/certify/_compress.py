"""Training a model so that few bits describe it: quantisation-aware, in a subspace if wanted."""

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.func import functional_call

from keelback.certify._coded_model import (
    CodedHeader,
    CodedModel,
    CodedTensor,
    assemble,
    coded_shapes,
    header_of,
)
from keelback.errors import InputError, JobError
from keelback.progress import tell

_VECTOR_BITS = 6.0
_BETAS = (0.9, 0.95)
_GRADIENT_NORM = 1.0
_WARM_UP = 0.02
_LAST_RATE = 0.02
_SUBSPACE_START = 0.02


@dataclass(frozen=True)
class CompressionRecipe:
    """How a model is made short.

    Attributes:
        bits: about how many bits a weight of a matrix takes; the entropy of its distribution, once
            quantised. Vectors (norms, biases, rates) take about six.
        steps: optimiser steps with quantised weights in the forward pass.
        batch: windows per step.
        seq_len: tokens in a window.
        learning_rate: of Adam at its peak.
        spread: the standard deviation of a token's loss in nats, and
        tokens: how many tokens the certificate will be about: with them the objective is the loss
            plus spread * sqrt(2 * code length / tokens), about what the certificate will say.
        rank: of the trained change of each matrix; 0 trains the matrices themselves.
        seed: of the order of the windows, and of the random weights below a subspace.
        max_seconds: training ends by then, the rate decaying by the clock if the steps are too slow
            for it.

    Examples:
        >>> CompressionRecipe(bits=2.0, steps=100).bits
        2.0
    """

    bits: float = 3.0
    steps: int = 1500
    batch: int = 32
    seq_len: int = 128
    learning_rate: float = 2e-3
    spread: float = 1.7
    tokens: int = 30_000_000
    rank: int = 0
    seed: int = 0
    max_seconds: float = 3600.0

    def __post_init__(self) -> None:
        positive = {
            "bits": self.bits, "batch": self.batch, "learning_rate": self.learning_rate,
            "tokens": self.tokens, "max_seconds": self.max_seconds,
        }  # fmt: skip
        for name, value in positive.items():
            if not value > 0:
                raise InputError(f"{name} = {value:g} must be positive")
        for name in ("steps", "rank", "spread", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)} must not be negative")
        if self.seq_len < 2:
            raise InputError(f"seq_len = {self.seq_len} must be at least 2")


def compress(
    model: nn.Module,
    tokens: Integer[Tensor, " tokens"],
    recipe: CompressionRecipe,
    *,
    context: int,
    window: int,
) -> tuple[CodedModel, list[float]]:
    """Train a language model with quantised weights; gives it coded, and the loss of each step.

    The forward pass uses weights rounded to multiples of a step per tensor, the backward pass
    ignores the rounding (a straight-through estimator).

    Args:
        model: a language model of transformers. With a rank
            above 0 its matrices are not looked at: they start random. It is not changed.
        tokens: the text to train on; documents one after the other.
        recipe: how.
        context: tokens that the coded model reads before a window of text.
        window: tokens that it predicts at a time.

    Raises:
        InputError: too little text for one window, or a model that cannot be coded.
        JobError: the training diverged.

    Source: Bengio, Leonard and Courville, arXiv 1308.3432 (straight through); Lotfi et al., arXiv
    2312.17173 (a subspace and quantised coordinates for bounds of language models).

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> recipe = CompressionRecipe(steps=1, batch=2, seq_len=16)
        >>> text = torch.randint(256, (500,))
        >>> coded, losses = compress(model, text, recipe, context=8, window=16)
        >>> len(coded.to_bytes()) < 20_000, len(losses)
        (True, 1)
    """
    if len(tokens) < recipe.seq_len + 2:
        raise InputError(f"{len(tokens)} tokens are too few for windows of {recipe.seq_len}")
    settings = {"context": context, "window": window}
    if recipe.rank:
        settings |= {"seed": recipe.seed, "rank": recipe.rank}
    header = header_of(model, **settings)
    coded = _start(model, header, recipe.seed)
    steps = {name: step_of(x.detach(), recipe.bits) for name, x in coded.items()}
    losses = _descend(model, header, coded, steps, tokens, recipe)
    if not all(torch.isfinite(x).all() for x in coded.values()):
        raise JobError("training diverged: weights are not finite; a lower learning rate may help")
    tensors = {
        name: CodedTensor(
            torch.round(x.detach() / steps[name]).to(torch.int32).cpu().numpy(), steps[name]
        )
        for name, x in coded.items()
    }
    return CodedModel(header, tensors), losses


def _start(model: nn.Module, header: CodedHeader, seed: int) -> dict[str, Tensor]:
    """The tensors to train, in float32."""
    generator = torch.Generator().manual_seed(seed)
    coded = {}
    parameters = dict(model.named_parameters())
    for name, shape in coded_shapes(model, header).items():
        if name in parameters:
            start = parameters[name].detach().float().clone()
        else:
            start = _SUBSPACE_START * torch.randn(shape, generator=generator)
        coded[name] = start.to(next(model.parameters()).device).requires_grad_(True)
    return coded


def step_of(weights: Float[Tensor, "*shape"], bits: float) -> float:
    """The step at which a normal variable of the weights' spread has an entropy of `bits`.

    sigma sqrt(2 pi e) / 2^bits; vectors take six bits at least. A tensor without spread takes its
    own size as the step. The step is a float32.
    """
    if weights.ndim < 2:
        bits = max(bits, _VECTOR_BITS)
    spread = float(weights.double().std()) if weights.numel() > 1 else 0.0
    step = spread * math.sqrt(2 * math.pi * math.e) / 2**bits
    if step == 0:
        step = float(weights.abs().max()) or 1.0
    return float(np.float32(step))


def soft_bits(coded: Mapping[str, Tensor], steps: Mapping[str, float]) -> Float[Tensor, ""]:
    """About how many bits the quantised tensors take, differentiable.

    Half log2(1 + (2 e mean|w| / step)^2) a weight, the entropy of a Laplace distribution where the
    step is small.
    """
    return sum(
        (
            x.numel() / 2 * torch.log2(1 + (2 * math.e * x.abs().mean() / steps[name]) ** 2)
            for name, x in coded.items()
        ),
        torch.zeros((), device=next(iter(coded.values())).device),
    )


def _descend(
    model: nn.Module,
    header: CodedHeader,
    coded: dict[str, Tensor],
    steps: dict[str, float],
    tokens: Tensor,
    recipe: CompressionRecipe,
) -> list[float]:
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    optimiser = torch.optim.Adam(coded.values(), lr=0.0, betas=_BETAS)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    with scanning(model):
        for step in range(recipe.steps):
            done = max(step / recipe.steps, (time.monotonic() - began) / recipe.max_seconds)
            if done >= 1:
                break
            rate = min(1.0, done / _WARM_UP) * (1 - (1 - _LAST_RATE) * done)
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * rate
            starts = torch.randint(
                len(tokens) - recipe.seq_len - 1, (recipe.batch,), generator=generator
            )
            positions = starts.unsqueeze(-1) + torch.arange(recipe.seq_len + 1)
            windows = tokens[positions.to(device)].long()
            rounded = {name: _rounded(x, steps[name]) for name, x in coded.items()}
            weights = assemble(model, header, rounded)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = run(model, windows[:, :-1], weights)
            loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
            bits = soft_bits(coded, steps)
            excess = recipe.spread * torch.sqrt(2 * math.log(2) * bits / recipe.tokens)
            optimiser.zero_grad()
            (loss + excess).backward()
            nn.utils.clip_grad_norm_(list(coded.values()), _GRADIENT_NORM)
            optimiser.step()
            losses.append(float(loss.detach()))
            tell("training with quantised weights", done, 1)
            if step == 0:
                began = time.monotonic()  # Kernels are compiled in the first step.
    model.eval()
    return losses


def _rounded(weights: Tensor, step: float) -> Tensor:
    rounded = torch.round(weights.detach() / step) * torch.tensor(step, device=weights.device)
    return weights + (rounded - weights.detach())


def run(
    model: nn.Module,
    tokens: Int[Tensor, "batch length"],
    weights: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "batch length vocab"]:
    """Logits of a language model of transformers, with other weights if given."""
    options: dict[str, Any] = {"use_cache": False}
    if weights is None:
        logits: Tensor = model(tokens, **options).logits
    else:
        logits = functional_call(model, dict(weights), (tokens,), options).logits
    return logits


def scanning(model: nn.Module) -> AbstractContextManager[object]:
    """Within the block, Mamba layers of transformers scan by `keelback.scan`."""
    if not type(model).__module__.startswith("transformers."):
        return nullcontext()
    from keelback.integrations import use_in_transformers

    return use_in_transformers()
