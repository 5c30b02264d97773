"""Training a model so that few bits describe it: quantisation-aware, in a subspace if wanted."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.func import functional_call

from keelback.certify._alphabet import OF_BYTES, Alphabet
from keelback.certify._coded_model import (
    CodedHeader,
    CodedModel,
    CodedTensor,
    header_of,
)
from keelback.certify._subspace import assemble, bases_of, shapes_of
from keelback.errors import InputError, JobError
from keelback.progress import tell

_VECTOR_BITS = 6.0
_BETAS = (0.9, 0.95)
_GRADIENT_NORM = 1.0
_WARM_UP = 0.02
_LAST_RATE = 0.02
_SUBSPACE_START = 0.02
_FULL_WEIGHT = 0.5
"""The length of the code counts more and more, and fully after this share of the training."""
_REPORT_EVERY = 100

Report = Callable[[int, float, float], None]
"""Told a step, its loss in nats and about how many bits the weights take."""


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
            plus spread * sqrt(2 * code length / tokens), about what the certificate will
            say. In the first half of the training the length counts less.
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
    alphabet: Alphabet = OF_BYTES,
    report: Report = lambda step, loss, bits: None,
) -> tuple[CodedModel, list[float]]:
    """Train a language model with quantised weights; gives it coded, and the loss of each step.

    The forward pass uses weights rounded to multiples of a step per tensor, the backward pass
    ignores the rounding (a straight-through estimator). The steps are trained as well.

    Args:
        model: a language model of transformers. With a rank
            above 0 its matrices are not looked at: they start random. It is not changed.
        tokens: the text to train on; documents one after the other.
        recipe: how.
        context: tokens that the coded model reads before a window of text.
        window: tokens that it predicts at a time.
        alphabet: whose tokens they are; it becomes part of the coded model.
        report: told a step, its loss in nats and about how many bits the weights take, now and
            then.

    Raises:
        InputError: too little text for one window, or a model that cannot be coded.
        JobError: the training diverged.

    Source: Bengio, Leonard and Courville, arXiv 1308.3432 (straight through); Lotfi et al., arXiv
    2312.17173 (a subspace and quantised coordinates for bounds of language models); Esser et al.,
    arXiv 1902.08153 (trained steps).

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
    settings: dict[str, Any] = {"context": context, "window": window, "merges": alphabet.merges}
    if recipe.rank:
        settings |= {"seed": recipe.seed, "rank": recipe.rank}
    header = header_of(model, **settings)
    start = _start(model, header, recipe.seed)
    trained = Rounding.of(start, recipe.bits, next(model.parameters()).device)
    losses = _descend(model, header, trained, tokens, recipe, report)
    if not all(torch.isfinite(x).all() for x in (trained.weights, trained.log_steps)):
        raise JobError("training diverged: weights are not finite; a lower learning rate may help")
    return CodedModel(header, trained.coded()), losses


def _start(model: nn.Module, header: CodedHeader, seed: int) -> dict[str, Tensor]:
    """The tensors to train, in float32."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    return {
        name: parameters[name].detach().float().cpu()
        if name in parameters
        else _SUBSPACE_START * torch.randn(shape, generator=generator)
        for name, shape in shapes_of(model, header.rank).items()
    }


@dataclass(frozen=True)
class Rounding:
    """Tensors that are trained together, and the steps that each is rounded to.

    They lie one after the other in one vector: a few operations for all of them.

    Attributes:
        shapes: of the tensors, by name.
        lengths: how many weights each has.
        weights: of all tensors.
        log_steps: the logarithm of each tensor's step.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lengths: Int[Tensor, " tensors"]
    weights: Float[Tensor, " weights"]
    log_steps: Float[Tensor, " tensors"]

    @classmethod
    def of(cls, start: Mapping[str, Tensor], bits: float, device: torch.device) -> "Rounding":
        """Tensors as they start, and steps from `step_of`."""
        steps = torch.tensor([step_of(x, bits) for x in start.values()])
        return cls(
            {name: tuple(x.shape) for name, x in start.items()},
            torch.tensor([x.numel() for x in start.values()], device=device),
            torch.cat([x.flatten() for x in start.values()]).to(device).requires_grad_(True),
            steps.log().to(device).requires_grad_(True),
        )

    def rounded(self) -> dict[str, Tensor]:
        """Each tensor in multiples of its step, differentiable as if it were a straight line.

        The gradient of a step is how far its weights are moved, in steps.
        """
        steps = self._spread(self.log_steps.exp())
        exact = self.weights.detach() / steps.detach()
        return self._split(self.weights + steps * (torch.round(exact) - exact))

    def soft_bits(self) -> Float[Tensor, ""]:
        """About how many bits the rounded tensors take, differentiable.

        Half log2(1 + (2 e mean|w| / step)^2) a weight, the entropy of a Laplace distribution where
        the step is small.
        """
        owners = self._spread(torch.arange(len(self.lengths), device=self.lengths.device))
        sums = torch.zeros_like(self.log_steps).index_add(0, owners, self.weights.abs())
        shares = 2 * math.e * sums / self.lengths / self.log_steps.exp()
        return (self.lengths / 2 * torch.log2(1 + shares**2)).sum()

    def coded(self) -> dict[str, CodedTensor]:
        """Whole numbers and steps."""
        steps = self.log_steps.detach().exp()
        exact = self.weights.detach() / self._spread(steps)
        values = self._split(torch.round(exact).to(torch.int32).cpu())
        return {
            name: CodedTensor(x.numpy(), step)
            for (name, x), step in zip(values.items(), steps.tolist(), strict=True)
        }

    def _spread(self, values: Tensor) -> Tensor:
        """One value per tensor to one per weight."""
        return torch.repeat_interleave(values, self.lengths, output_size=len(self.weights))

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        parts = values.split([math.prod(shape) for shape in self.shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def step_of(weights: Float[Tensor, "*shape"], bits: float) -> float:
    """The step at which a normal variable of the weights' spread has an entropy of `bits`.

    sigma sqrt(2 pi e) / 2^bits; vectors take six bits at least. A tensor without spread takes a
    sixteenth of its own size as the step, so that it can move. The step is a float32.
    """
    if weights.ndim < 2:
        bits = max(bits, _VECTOR_BITS)
    spread = float(weights.double().std()) if weights.numel() > 1 else 0.0
    step = spread * math.sqrt(2 * math.pi * math.e) / 2**bits
    if step == 0:
        step = (float(weights.abs().max()) or 1.0) / 16
    return float(np.float32(step))


def _descend(
    model: nn.Module,
    header: CodedHeader,
    trained: Rounding,
    tokens: Tensor,
    recipe: CompressionRecipe,
    report: Report,
) -> list[float]:
    """Train weights and steps; gives the losses."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    tokens = tokens.to(device)
    bases = {} if header.seed is None else bases_of(model, header.rank, header.seed)
    learnt = [trained.weights, trained.log_steps]
    optimiser = torch.optim.Adam(learnt, lr=0.0, betas=_BETAS, fused=on_gpu)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[Tensor] = []
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
            positions = starts.to(device).unsqueeze(-1) + torch.arange(
                recipe.seq_len + 1, device=device
            )
            windows = tokens[positions].long()
            weights = assemble(trained.rounded(), bases)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                logits = run(model, windows[:, :-1], weights)
            loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
            bits = trained.soft_bits()
            excess = recipe.spread * torch.sqrt(2 * math.log(2) * bits / recipe.tokens)
            weight = min(1.0, done / _FULL_WEIGHT)
            optimiser.zero_grad()
            (loss + weight * excess).backward()
            nn.utils.clip_grad_norm_(learnt, _GRADIENT_NORM)
            optimiser.step()
            losses.append(loss.detach())
            tell("training with quantised weights", done, 1)
            if step % _REPORT_EVERY == 0:
                report(step, float(losses[-1]), float(bits.detach()))
            if step == 0:
                began = time.monotonic()  # Kernels are compiled in the first step.
    model.eval()
    return torch.stack(losses).tolist() if losses else []


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
