"""Byte-level language models to audit and repair: trained short, run long."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from keelback.audit import (
    AuditResult,
    PositionLoss,
    Repair,
    audit,
    fast_scans,
    load_any_model,
    repair,
    require_free,
    save_repaired,
    whole_folder,
)
from keelback.data.reviews import find_reviews
from keelback.errors import InputError, describe
from keelback.outcome import Column, Figure, Line, Mark, Outcome, Panel, Table

VOCAB = 256
_GRADIENT_NORM = 1.0
_BETAS = (0.9, 0.95)
_WARM_UP = 0.02
_LAST_RATE = 0.05
_BEHIND = 0.05
_SEQUENCES = 4
_REPORT_EVERY = 100
_SEPARATOR = "\n\n"


class ByteLMConfig(BaseModel):
    """Everything that decides what the model is and how it is trained.

    Attributes:
        initial_rate_scale: A starts this many times smaller in size than Mamba's 1, 2, 3, ...; far
            below 1, states outlast the training length from the start.
        max_seconds: training ends by then, the rate decaying by the clock if the steps are too slow
            for it; otherwise the same seed gives the same training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mamba", "mamba2"] = "mamba2"
    d_model: int = Field(default=384, gt=0)
    n_layers: int = Field(default=10, gt=0)
    d_state: int = Field(default=64, gt=0)
    head_dim: int = Field(default=32, gt=0)
    seq_len: int = Field(default=256, gt=1)
    batch: int = Field(default=64, gt=0)
    steps: int = Field(default=2500, gt=0)
    max_seconds: float = Field(default=3600.0, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0, le=1e30)
    weight_decay: float = Field(default=0.1, ge=0, le=1e30)
    initial_rate_scale: float = Field(default=1.0, gt=0, le=1e30)
    seed: int = 0
    stored_as: Literal["float32", "bfloat16"] = "float32"


PRESETS = {
    "tiny": ByteLMConfig(
        d_model=96,
        n_layers=2,
        seq_len=64,
        batch=32,
        steps=800,
        learning_rate=4e-3,
        initial_rate_scale=2**-6,
        stored_as="bfloat16",
    ),
    "mamba": ByteLMConfig(kind="mamba", d_state=16),
    "mamba2": ByteLMConfig(kind="mamba2"),
    "mamba-long-memory": ByteLMConfig(kind="mamba", d_state=16, initial_rate_scale=2**-6),
    "mamba2-long-memory": ByteLMConfig(kind="mamba2", initial_rate_scale=2**-6),
}
"""`tiny` trains in minutes on one core; the others have 10 million parameters and want a GPU."""
_TITLES = {
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "mamba-long-memory": "Mamba that starts with a long memory",
    "mamba2-long-memory": "Mamba-2 that starts with a long memory",
    "tiny": "a tiny Mamba-2 that starts with a long memory",
}


def chosen_config(preset: str, fields: Sequence[str]) -> ByteLMConfig:
    """A preset with some of its fields replaced, each given as `FIELD=VALUE`.

    Raises:
        InputError: no such preset or field, or a value that the field cannot take.
    """
    if preset not in PRESETS:
        raise InputError(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    for pair in fields:
        if "=" not in pair:
            raise InputError(f"--set {pair!r} is not FIELD=VALUE")
    given = dict(pair.split("=", 1) for pair in fields)
    try:
        return ByteLMConfig.model_validate({**PRESETS[preset].model_dump(), **given})
    except ValidationError as error:
        raise InputError(f"byte-lm: {describe(error)}") from None


def build(config: ByteLMConfig, *, vocab_size: int = VOCAB) -> nn.Module:
    """The model at the start of training, as transformers builds it; over bytes, or more tokens."""
    import transformers

    torch.manual_seed(config.seed)
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "state_size": config.d_state,
        "tie_word_embeddings": True,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    }
    model: Any
    if config.kind == "mamba":
        model = transformers.MambaForCausalLM(transformers.MambaConfig(**common))
    else:
        model = transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(
                **common,
                head_dim=config.head_dim,
                num_heads=2 * config.d_model // config.head_dim,
                n_groups=1,
                chunk_size=min(64, config.seq_len),
            )
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.add_(math.log(config.initial_rate_scale))
    return cast(nn.Module, model)


def train(
    model: nn.Module,
    config: ByteLMConfig,
    data: UInt8[Tensor, " bytes"],
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train in place on random windows of `data`; gives the loss of each step, in nats a byte.

    AdamW with a linear warm-up and a linear decay; in bfloat16 autocast on a GPU. `report` is told
    a step and its loss now and then.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    groups = _groups(model, config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, fused=on_gpu)
    generator = torch.Generator().manual_seed(config.seed)
    data = data.to(device)
    losses: list[Tensor] = []
    began = time.monotonic()
    model.train()
    with fast_scans(model):
        for step in range(config.steps):
            done = _progress(step, time.monotonic() - began, config)
            if done >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(done)
            windows = _windows(data, config, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                logits = model(windows[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
            optimiser.step()
            losses.append(loss.detach())
            if step % _REPORT_EVERY == 0:
                report(step, float(losses[-1]))
            if step == 0:
                began = time.monotonic()  # kernels are compiled in the first step
    model.eval()
    return torch.stack(losses).tolist()


def _progress(step: int, seconds: float, config: ByteLMConfig) -> float:
    """Share of the training that is over: by its steps, or by the clock if that is well ahead."""
    by_steps, by_clock = step / config.steps, seconds / config.max_seconds
    return by_clock if by_clock > by_steps + _BEHIND else by_steps


def _schedule(done: float) -> float:
    return min(1.0, done / _WARM_UP) * (1 - (1 - _LAST_RATE) * done)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; rates, biases, norms and the like do not."""
    decayed = {n for n, p in model.named_parameters() if p.ndim >= 2 and not n.endswith("A_log")}
    return [
        {
            "params": [p for n, p in model.named_parameters() if (n in decayed) == decays],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]


def _windows(
    data: UInt8[Tensor, " bytes"], config: ByteLMConfig, generator: torch.Generator
) -> Int[Tensor, "batch length"]:
    starts = torch.randint(len(data) - config.seq_len - 1, (config.batch,), generator=generator)
    positions = starts.unsqueeze(-1) + torch.arange(config.seq_len + 1)
    return data[positions.to(data.device)].long()


def read_bytes(data: Path | None, split: Literal["train", "test"], seed: int) -> Tensor:
    """The reviews of a split in random order, joined, as bytes; `<br />` becomes a line break."""
    texts = list(find_reviews(data, split).read().texts)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    joined = _SEPARATOR.join(texts[i] for i in order).replace("<br />", "\n")
    return torch.frombuffer(bytearray(joined.encode()), dtype=torch.uint8)


@dataclass(frozen=True)
class ByteLMStudy:
    """One model: how it was trained, what it does at length, and what a repair does to that."""

    config: ByteLMConfig
    parameters: int
    seconds: float
    training_losses: Sequence[float]
    before: AuditResult
    mended: Repair
    after: AuditResult


def free_folders(out: Path) -> tuple[Path, Path]:
    """Where a study's checkpoint and its repaired one go.

    Raises:
        InputError: either folder holds something already.
    """
    folders = out / "model", out / "repaired"
    for folder in folders:
        require_free(folder)
    return folders


def study(
    config: ByteLMConfig,
    data: Path | None,
    out: Path,
    *,
    multiple: int = 32,
    device: str = "cpu",
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> ByteLMStudy:
    """Train, audit at `multiple` training lengths, repair to that length, audit again.

    Writes the checkpoint to `out/model` and, if a repair helped, the repaired one to
    `out/repaired`. The audits are of one part of the test split, the repair sees another.

    Raises:
        InputError: either folder holds something already, or there are no reviews at `data`.
    """
    folders = free_folders(out)
    training_text = read_bytes(data, "train", config.seed)
    target = multiple * config.seq_len
    tokens = read_bytes(data, "test", config.seed)[: 2 * _SEQUENCES * target].long()
    audited, calibrating = tokens.split(_SEQUENCES * target)

    model: Any = build(config).to(device)
    began = time.monotonic()
    losses = train(model, config, training_text, report)
    seconds = time.monotonic() - began
    stored_as: torch.dtype = getattr(torch, config.stored_as)
    with whole_folder(folders[0]) as folder:
        model.to(stored_as).save_pretrained(folder)
        for weights in folder.glob("*.safetensors"):
            weights.chmod((folder / "config.json").stat().st_mode)
    loaded = load_any_model(folders[0], device=device)
    model = loaded.model

    arguments: dict[str, Any] = {"train_length": config.seq_len, "length": target, "name": out.name}
    before = audit(model, audited, **arguments)
    mended = repair(
        model,
        calibrating,
        target_length=target,
        train_length=config.seq_len,
        stored_as=loaded.stored_types,
    )
    after = audit(model, audited, **arguments)
    if mended.method != "none":
        save_repaired(loaded, mended, folders[1])
    count = sum(p.numel() for p in model.parameters())
    return ByteLMStudy(config, count, seconds, losses, before, mended, after)


def study_outcome(studies: Sequence[ByteLMStudy]) -> Outcome:
    """Loss against position, before and after repair, and a table with one row a model."""
    return Outcome(
        experiment="byte-lm",
        title="Byte-level language models beyond their training length",
        summary=(
            "Each model is trained on windows of one length and run on sequences of many. Losses "
            "are in nats a byte on reviews of the test split."
        ),
        verdict=" ".join(f"{own.before.model}: {own.mended.summary}" for own in studies),
        figures=[
            loss_figure(own.before.model, own.config.seq_len, own.before.losses, own.after.losses)
            for own in studies
        ],
        tables=[_table(studies)],
        numbers={
            "studies": [_numbers(own) for own in studies],
            "verdicts": [
                {"model": own.before.model, "the audit says": own.before.verdict} for own in studies
            ],
        },
    )


def loss_figure(
    model: str, seq_len: int, before: Sequence[PositionLoss], after: Sequence[PositionLoss]
) -> Figure:
    """Loss of one model against position, before and after its repair, and how far it rises."""
    lines = [
        _line(before, lambda loss: loss.loss, "as trained", "solid"),
        _line(after, lambda loss: loss.loss, "repaired", "solid"),
        _line(before, lambda loss: loss.restarted, "restarted", "dashed"),
    ]
    rises = [
        _line(losses, lambda loss: loss.loss - loss.restarted, label, "solid")
        for losses, label in ((before, "as trained"), (after, "repaired"))
    ]
    marks = [Mark(seq_len, "training length")]
    panels = [
        Panel("position, bytes", "loss, nats per byte", lines=lines, log_x=True, marks=marks),
        Panel(
            "position, bytes",
            "rise over restarted, nats per byte",
            lines=rises,
            log_x=True,
            marks=marks,
        ),
    ]
    caption = (
        "Restarted: the model sees no more than a training length before each byte. A line that is "
        "not seen lies under another one."
    )
    title = f"Loss against position: {_TITLES.get(model, model)}"
    return Figure(f"loss-{model}", title, panels, caption)


def _line(
    losses: Sequence[PositionLoss], value: Callable[[PositionLoss], float], label: str, style: str
) -> Line:
    known = [loss for loss in losses if math.isfinite(value(loss))]
    x = [(loss.start + loss.stop - 1) / 2 for loss in known]
    return Line(x, [value(loss) for loss in known], label, style=style)


def _table(studies: Sequence[ByteLMStudy]) -> Table:
    columns = [
        Column("model", "model"),
        Column("kind", "kind"),
        Column("parameters", "parameters", ",d"),
        Column("initial_rate_scale", "factor of A at the start", ".3g"),
        Column("steps", "steps", ",d"),
        Column("train_length", "trained at, bytes", "d"),
        Column("outlasting", "rates that outlast it", ".0%"),
        Column("length", "run at, bytes", "d"),
        Column("reference", "loss, restarted", ".3f"),
        Column("before", "loss as trained", ".3f"),
        Column("before_excess", "excess as trained", "+.1%"),
        Column("after", "loss, repaired", ".3f"),
        Column("after_excess", "excess, repaired", "+.1%"),
        Column("within", "loss in training's length", ".3f"),
        Column("within_after", "the same, repaired", ".3f"),
        Column("method", "method"),
    ]
    caption = (
        "Mean losses in nats a byte over the last octave of positions, and over the positions that "
        "training knew; excess is against the same bytes in contexts that training knew."
    )
    return Table("byte-lm", "Loss at length", columns, [_row(own) for own in studies], caption)


def _row(own: ByteLMStudy) -> dict[str, Any]:
    before, after = own.before.degradation, own.after.degradation
    assert before is not None
    assert after is not None
    return {
        "model": own.before.model,
        "kind": own.config.kind,
        "parameters": own.parameters,
        "initial_rate_scale": own.config.initial_rate_scale,
        "steps": len(own.training_losses),
        "train_length": own.config.seq_len,
        "outlasting": _outlasting(own.before),
        "length": own.before.span.length,
        "reference": before.reference_loss,
        "before": before.reference_loss + before.excess,
        "before_excess": before.relative_excess,
        "after": after.reference_loss + after.excess,
        "after_excess": after.relative_excess,
        "within": own.mended.before.within,
        "within_after": own.mended.after.within,
        "method": own.mended.method,
    }


def _outlasting(result: AuditResult) -> float:
    """Mean over layers of the share of rates whose horizon exceeds the training length."""
    horizons = [layer["horizon"] for layer in result.to_json()["layers"]]
    return fmean(float(horizon["beyond_train_length"]) for horizon in horizons)


def _numbers(own: ByteLMStudy) -> dict[str, Any]:
    return {
        "config": own.config.model_dump(),
        "parameters": own.parameters,
        "steps": len(own.training_losses),
        "seconds": own.seconds,
        "training_losses": list(own.training_losses[:: max(1, len(own.training_losses) // 200)]),
        "before": own.before.to_json(),
        "repair": own.mended.to_json(),
        "after": own.after.to_json(),
    }
