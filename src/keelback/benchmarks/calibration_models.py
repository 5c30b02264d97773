"""Models whose faults are known: trained or edited so that they have them, or not.

What is true of a model is known from how it was made, or measured without the audit: whether it
holds at length from losses on other text, sixteen times as much; whether it overflows by running it
in float16.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keelback.audit import bundled_text, fast_scans
from keelback.audit._degradation import TOLERANCE
from keelback.audit._verdict import STEP_SHIFTED
from keelback.benchmarks import lookalike_layers as layers
from keelback.experiments.length.byte_lm import PRESETS, build, train
from keelback.models import SelectiveSSM

TRAINED, LENGTH = 64, 1024
_TRUTH_SEQUENCES = 16
_SEEDS = 3
_LONG_MEMORY = 2.0**-6
_STEPS = 300
_TOLD = 3000.0
"""By how much the first of two random layers says more than it would of what it remembers."""

CLAIMS = (
    "unstable",
    "does not hold",
    "states leave the range",
    "step sizes leave the range",
    "dead channels",
    "saturated channels",
    "overflows in float16",
    "not read in full",
)
"""What an audit may say of a model that a specialist would check."""


@dataclass(frozen=True)
class Case:
    """A model, the text to audit it on, and which of the claims are true of it.

    A claim whose truth is not known is not in `truth`, and not counted.
    """

    name: str
    group: str
    model: nn.Module
    tokens: Tensor
    truth: Mapping[str, bool]


def cases(report: Callable[[str], None] = lambda name: None, first_seed: int = 0) -> Iterator[Case]:
    """All of them, one after another; the trained ones take the time.

    Args:
        report: told what is begun.
        first_seed: of three trainings of each kind, and of the random models.
    """
    texts = _Texts()
    seeds = range(first_seed, first_seed + _SEEDS)
    trained: dict[tuple[str, float, int], nn.Module] = {}
    for kind in ("mamba", "mamba2"):
        for scale in (1.0, _LONG_MEMORY):
            for seed in seeds:
                report(f"training {kind}, rates times {scale:g}, seed {seed}")
                trained[kind, scale, seed] = _trained(kind, scale, seed, texts.training)
    for (kind, scale, seed), model in trained.items():
        memory = "usual" if scale == 1.0 else "long"
        yield _language_model(f"{kind}, {memory} memory, seed {seed}", "trained", model, texts)
    for kind in ("mamba", "mamba2"):
        sound = [trained[kind, 1.0, seed] for seed in seeds]
        yield from _edited(kind, sound, texts)
        yield from _in_few_bits(kind, [sound[0], trained[kind, _LONG_MEMORY, first_seed]], texts)
        yield _language_model(
            f"{kind}, the subject changes", "change of subject", sound[1], texts, texts.turning
        )
        yield _language_model(
            f"{kind}, the script changes", "change of subject", sound[2], texts, texts.shouting
        )
    yield from _free_rates(first_seed)
    yield from _counting(first_seed)
    yield from _lookalikes(first_seed)


class _Texts:
    """Three parts of a novel: to train on, to audit on, and to know the truth from."""

    def __init__(self) -> None:
        everything = torch.frombuffer(bytearray(bundled_text().encode()), dtype=torch.uint8)
        self.training = everything[:40_000]
        self.truth = everything[40_000 : 40_000 + _TRUTH_SEQUENCES * LENGTH].long()
        self.audited = everything[-2 * LENGTH : -LENGTH].long()
        half = LENGTH // 2
        self.turning = torch.cat([self.audited[:half], torch.arange(half) % 10 + ord("0")])
        shouted = bundled_text().upper().encode()[-half:]
        self.shouting = torch.cat([self.audited[:half], torch.tensor(list(shouted))])


def _trained(kind: str, scale: float, seed: int, text: Tensor) -> nn.Module:
    settings = {
        "kind": kind,
        "d_model": 64,
        "d_state": 16,
        "steps": _STEPS,
        "seed": seed,
        "initial_rate_scale": scale,
        "stored_as": "float32",
    }
    config = PRESETS["tiny"].model_copy(update=settings)
    model = build(config)
    train(model, config, text)
    return model.eval()


def _language_model(
    name: str,
    group: str,
    model: nn.Module,
    texts: _Texts,
    tokens: Tensor | None = None,
    **known: bool,
) -> Case:
    """A case whose hold at length is measured; all other claims are false unless `known`."""
    rise = _rise(model, texts.truth.view(_TRUTH_SEQUENCES, LENGTH))
    truth = {
        "unstable": False,
        "does not hold": rise > TOLERANCE,
        "step sizes leave the range": False,
        "dead channels": False,
        "overflows in float16": _overflows(model, texts.audited),
        "not read in full": False,
        **{claim.replace("_", " "): value for claim, value in known.items()},
    }
    if rise > TOLERANCE:  # what the first layers do wrong may move the steps of the next
        del truth["step sizes leave the range"]
    if tokens is not None:  # of another text than that on which the truth was measured
        del truth["does not hold"]
    return Case(name, group, model, texts.audited if tokens is None else tokens, truth)


@torch.no_grad()
def _rise(model: Any, sequences: Tensor) -> float:
    """By which share the length raises the loss over the last octave of positions."""
    late = LENGTH // 2
    step = TRAINED // 2
    with fast_scans(model):
        full = _losses(model, sequences)[:, late - 1 :]
        windows = [sequences[:, start - step : start + step] for start in range(late, LENGTH, step)]
        alone = torch.cat([_losses(model, own)[:, step - 1 :] for own in windows], dim=1)
    return float(full.mean() / alone.mean() - 1)


def _losses(model: Any, tokens: Tensor) -> Tensor:
    logits = model(tokens, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


@torch.no_grad()
def _overflows(model: nn.Module, tokens: Tensor) -> bool:
    """Whether any module of the model gives a number that is not finite in float16."""
    half = copy.deepcopy(model).half()
    seen = False

    def look(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal seen
        seen |= isinstance(output, Tensor) and not bool(torch.isfinite(output).all())

    for module in half.modules():
        module.register_forward_hook(look)
    with fast_scans(half):
        half(tokens[None, :128], use_cache=False)
    return seen


def _mixers(model: Any) -> list[Any]:
    return [block.mixer for block in model.backbone.layers]


@torch.no_grad()
def _edited(kind: str, sound: list[nn.Module], texts: _Texts) -> Iterator[Case]:
    for seed, own in enumerate(sound[:2]):
        model: Any = copy.deepcopy(own)
        for mixer in _mixers(model):
            mixer.A_log -= math.log(2.0**10)
        yield _language_model(
            f"{kind}, rates cut, seed {seed}", "long memory", model, texts,
            states_leave_the_range=True,
        )  # fmt: skip
    model = copy.deepcopy(sound[2])
    for mixer in _mixers(model):
        mixer.A_log += math.log(2.0**16)
    yield _language_model(
        f"{kind}, all rates far too fast", "saturated", model, texts,
        states_leave_the_range=False, saturated_channels=True,
    )  # fmt: skip
    for share, is_true in ((0.25, True), (0.5, True), (0.02, False)):
        model = copy.deepcopy(sound[0])
        first = _mixers(model)[0]
        first.A_log[: int(share * len(first.A_log))] = math.log(1e6)
        yield _language_model(
            f"{kind}, {share:.0%} of a layer's rates far too fast", "saturated", model, texts,
            saturated_channels=is_true,
        )  # fmt: skip
    for share, is_true in ((0.25, True), (0.4, True), (0.02, False)):
        model = copy.deepcopy(sound[1])
        first = _mixers(model)[0]
        channels = int(share * model.config.hidden_size * model.config.expand)
        first.conv1d.weight[:channels] = 0
        first.conv1d.bias[:channels] = 0
        yield _language_model(
            f"{kind}, {share:.0%} of a layer's channels cut off", "dead", model, texts,
            dead_channels=is_true,
        )  # fmt: skip
    for factor in (1e2, 3e4, 1e5, 1e6):
        model = copy.deepcopy(sound[2])
        size = float(model.backbone.embeddings.weight.abs().max())
        model.backbone.embeddings.weight *= factor / size
        if model.lm_head.weight is model.backbone.embeddings.weight:
            model.backbone.norm_f.weight *= size / factor
        yield _language_model(f"{kind}, embeddings up to {factor:g}", "large numbers", model, texts)


@torch.no_grad()
def _in_few_bits(kind: str, models: list[nn.Module], texts: _Texts) -> Iterator[Case]:
    for bits in (8, 4):
        for name, own in zip(("usual", "long"), models, strict=True):
            model = copy.deepcopy(own)
            for part in model.modules():
                if isinstance(part, nn.Linear):
                    most = part.weight.abs().amax(1, keepdim=True).clamp_min(1e-12)
                    step = most / (2 ** (bits - 1) - 1)
                    part.weight.copy_((part.weight / step).round() * step)
            yield _language_model(
                f"{kind}, {name} memory, weights in {bits} bits", "quantised", model, texts
            )


class _FreeModel(nn.Module):
    """A language model around keelback's selective SSM, whose rates are free to be positive."""

    def __init__(self, abscissa: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(256, 16)
        self.ssm = SelectiveSSM(d_model=16, d_state=4, spectral_abscissa=abscissa)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 256)
        with torch.no_grad():
            for parameter in (self.embedding.weight, self.head.weight):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token."""
        logits: Tensor = self.head(self.norm(self.ssm(self.embedding(tokens))))
        return logits


def _free_rates(first_seed: int) -> Iterator[Case]:
    tokens = torch.from_numpy(np.random.default_rng(first_seed).integers(0, 256, LENGTH))
    abscissae = (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, -1e-4, -0.01, -0.05, -0.3)
    for seed, abscissa in enumerate(abscissae, first_seed):
        model = _FreeModel(abscissa, seed).eval()
        truth = {"unstable": abscissa >= 0, "not read in full": False, "dead channels": False}
        yield Case(f"free rates, abscissa {abscissa:g}", "free rates", model, tokens, truth)


def _counting(first_seed: int) -> Iterator[Case]:
    """Two layers, of which the first remembers all or little, and so tells the second where it is.

    Whether the second's step sizes leave the range of training is measured, on other sequences.
    """
    generator = torch.Generator().manual_seed(first_seed)
    truth_on = torch.randint(0, 13, (_TRUTH_SEQUENCES, LENGTH), generator=generator)
    tokens = torch.randint(0, 13, (LENGTH,), generator=generator)
    for rate in (1e-5, 1e-4, 1.0):
        for seed in range(first_seed, first_seed + 2 * _SEEDS):
            torch.manual_seed(seed)
            model: Any = layers.LanguageModel(layers.Mamba(), layers.Mamba()).eval()
            with torch.no_grad():
                model.layers[0].A_log.fill_(math.log(rate))
                model.layers[0].out_proj.weight.mul_(_TOLD)
            truth = {
                "unstable": False,
                "not read in full": False,
                "step sizes leave the range": _step_shift(model, truth_on) > STEP_SHIFTED,
            }
            name = f"a first layer of rate {rate:g}, seed {seed}"
            yield Case(name, "step sizes", model, tokens, truth)


@torch.no_grad()
def _step_shift(model: Any, sequences: Tensor) -> float:
    """How far mean step sizes at length are from those of the same tokens in short contexts.

    In standard deviations over tokens within the training length; the median over channels, of the
    layer where it is largest.
    """
    step = TRAINED // 2
    whole = _steps_of(model, sequences)
    starts = range(TRAINED, LENGTH, step)
    short = [_steps_of(model, sequences[:, i - step : i + step]) for i in starts]
    shifts = []
    for i, steps in enumerate(whole):
        alone = torch.cat([own[i][:, step:] for own in short], dim=1).mean((0, 1))
        spread = steps[:, :TRAINED].flatten(0, 1).std(0)
        shifts.append(float(((steps[:, TRAINED:].mean((0, 1)) - alone).abs() / spread).median()))
    return max(shifts)


def _steps_of(model: Any, tokens: Tensor) -> list[Tensor]:
    """The step sizes of each layer, `(batch, length, channels)`."""
    steps: list[Tensor] = []
    handles = [
        layer.dt_proj.register_forward_hook(lambda _, __, out: steps.append(F.softplus(out)))
        for layer in model.layers
    ]
    model(tokens)
    for handle in handles:
        handle.remove()
    return steps


def _lookalikes(first_seed: int) -> Iterator[Case]:
    tokens = torch.from_numpy(np.random.default_rng(first_seed + 1).integers(0, 13, 400))
    readable: list[Callable[[], nn.Module]] = [
        layers.Mamba,
        layers.Vim,
        lambda: layers.Vim(own_parts=False),
        layers.BothWays,
    ]
    for kind in layers.LOOKALIKES:
        torch.manual_seed(first_seed)
        model = layers.LanguageModel(kind(), kind()).eval()
        yield Case(kind.__name__, "look-alike", model, tokens, {"not read in full": True})
    for kind in layers.LOOKALIKES[:4]:
        torch.manual_seed(first_seed + 1)
        model = layers.LanguageModel(layers.Mamba(), kind(), layers.Mamba()).eval()
        name = f"Mamba, {kind.__name__}, Mamba"
        yield Case(name, "partly read", model, tokens, {"not read in full": True})
    for i, made in enumerate(readable):
        torch.manual_seed(first_seed + 2)
        model = layers.LanguageModel(made(), made()).eval()
        name = ("Mamba", "Vim", "Vim with shared parts", "Mamba both ways")[i]
        truth = {"not read in full": False, "unstable": False}
        yield Case(name, "written otherwise", model, tokens, truth)
