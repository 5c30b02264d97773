"""A repair is kept where it is worth it, and leaves alone what must not be touched."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from keelback.audit import (
    Change,
    HeldOutLoss,
    Repair,
    audit,
    bundled_text,
    load_any_model,
    load_tokenizer,
    repair,
)
from keelback.audit.repairs._gain import change_of_loss
from keelback.cli import main
from keelback.errors import InputError
from keelback.models import MambaBlock, MambaLanguageModelConfig, SelectiveSSM

CLASSES, TRAINED, TARGET = 16, 64, 512
TEXT = torch.arange(4 * TARGET) % CLASSES


class Hoarding(nn.Module):
    """Predicts a cycle less surely, by `harm`, as two layers' states pass what 150 tokens leave."""

    def __init__(self, harm: float) -> None:
        super().__init__()
        self.harm = harm
        self.layers = nn.ModuleList(SelectiveSSM(1, 1) for _ in range(2))
        with torch.no_grad():
            for layer in self.layers:
                layer.state_matrix.A.zero_()
                layer.W_B.fill_(1.0)
                layer.W_C.fill_(1.0)
                layer.q.zero_()
                layer.p.zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(*tokens.shape, 1)
        excess = sum((layer(ones) / 100 - 1).clamp_min(0.0) for layer in self.layers)
        following = F.one_hot((tokens + 1) % CLASSES, CLASSES).float()
        return following * 5.0 / (1 + self.harm * excess)


def mended(model: nn.Module, **options: Any) -> Repair:
    return repair(
        model, TEXT, target_length=TARGET, train_length=TRAINED, search="shared", **options
    )


def test_what_is_lost_within_two_per_cent_is_not_mended() -> None:
    model = Hoarding(harm=5e-4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = mended(model)
    assert 0.001 < result.before.at_target / result.before.restarted - 1 < 0.02
    assert result.gain.high < 0
    assert result.method == "none"
    assert result.tried == "decay-floor"
    assert result.summary.startswith("There is nothing to mend")
    assert "The model is unchanged." in result.summary
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    forced = mended(model, force=True)
    assert forced.method == "decay-floor"
    assert "It was edited all the same." in forced.summary
    assert not all(torch.equal(before[name], p) for name, p in model.named_parameters())
    forced.undo(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_gain_and_cost_are_printed_with_their_intervals() -> None:
    result = mended(Hoarding(harm=1.0))
    assert result.why_not == ""
    for change in (result.gain, result.cost):
        assert f"{change.low:+.4f} to {change.high:+.4f}" in result.summary
    found = result.to_json()
    assert found["gain"]["high"] < 0
    assert found["cost"]["mean"] < -found["gain"]["mean"]


ROSE = Change(0.30, 0.20, 0.40)
FELL = Change(-0.10, -0.12, -0.08)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"gain": Change(-0.1, -0.21, 0.01)}, "Nothing helped"),
        ({"cost": Change(0.11, 0.05, 0.2)}, "costs more within the training length"),
        ({"excess": Change(0.3, -0.1, 0.7)}, "nothing to mend for certain"),
        ({"before": HeldOutLoss(1.0, 2.03, 2.0)}, "There is nothing to mend"),
        ({"gain": Change(*[math.inf] * 3)}, "Nothing helped"),
        ({"gain": Change(*[-math.inf] * 3)}, ""),
        ({"gain": Change(*[-math.inf] * 3), "cost": Change(*[math.inf] * 3)}, "costs more"),
    ],
)
def test_when_an_edit_is_worth_it(change: dict[str, Any], words: str) -> None:
    worth_it = Repair(
        method="decay-floor",
        tried="decay-floor",
        search="shared",
        train_length=64,
        target_length=512,
        values={},
        before=HeldOutLoss(1.0, 1.3, 1.0),
        after=HeldOutLoss(1.0, 1.2, 1.0),
        excess=ROSE,
        gain=FELL,
        cost=Change(0.01, 0.0, 0.02),
        evaluations=0,
        replaced={},
    )
    reason = replace(worth_it, **change).why_not
    assert words in reason
    assert bool(words) == bool(reason)


@given(st.integers(1, 4), st.integers(1, 500), st.floats(-2, 2), st.integers(0, 99))
def test_a_constant_change_is_certain(rows: int, tokens: int, by: float, seed: int) -> None:
    before = np.random.default_rng(seed).normal(size=(rows, tokens))
    found = change_of_loss(before, before + by)
    assert np.allclose([found.mean, found.low, found.high], by)


def test_intervals_hold_what_they_promise() -> None:
    """Noise that is alike within 64 tokens: about 95 of 100 intervals hold the true change."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        noise = np.repeat(rng.normal(size=(2, 40)), 64, axis=1)
        found = change_of_loss(np.zeros_like(noise), 0.1 + noise, seed)
        held += found.low <= 0.1 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_changes_that_are_not_finite() -> None:
    one, nan = np.ones((1, 70)), np.full((1, 70), np.nan)
    assert change_of_loss(nan, one).high == -math.inf
    assert change_of_loss(one, nan).low == math.inf
    assert change_of_loss(nan, nan).low == math.inf


def test_locked_rates_are_left_and_named() -> None:
    model = Hoarding(harm=1.0)
    name = "layers.0.state_matrix.A"
    result = mended(model, locked={name: f"{name} is quantised (int4)"})
    assert list(result.replaced) == ["layers.1.state_matrix.A"]
    assert result.untouched == {"layers.0": f"{name} is quantised (int4)"}
    assert "Left as they are: 1 layers, the first layers.0" in result.summary
    every = {f"layers.{i}.state_matrix.A": "it is quantised (int4)" for i in range(2)}
    with pytest.raises(InputError, match=r"cannot be edited: it is quantised \(int4\)"):
        mended(model, locked=every)


class InFewBits(MambaBlock):
    """A block whose rates are stored in float8."""

    @property
    def A(self) -> torch.Tensor:
        return -self.A_log.float().exp()


def test_rates_in_few_bits_are_not_touched() -> None:
    """They are read as they are; an edit would be rounded to one that nobody asked for."""
    torch.manual_seed(0)
    model = MambaLanguageModelConfig(vocab_size=CLASSES, d_model=16, n_layers=2).build()
    block = model.backbone.blocks[0]
    block.A_log = nn.Parameter(block.A_log.detach().to(torch.float8_e5m2), requires_grad=False)
    block.__class__ = InFewBits
    result = mended(model, method="rate-scale", force=True)
    assert list(result.replaced) == ["backbone.blocks.1.A_log"]
    reason = "backbone.blocks.0.A_log is quantised (float8_e5m2)"
    assert result.untouched == {"backbone.blocks.0": reason}


CHECKPOINT = Path(__file__).parent / "checkpoints" / "byte-mamba2"


def test_the_command_writes_a_sound_model_only_if_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["repair", str(CHECKPOINT), "--tokenizer", "bytes", *map(str, arguments)])
        return ended.value.code

    sound = ("--train-length", 64, "--target-length", 72, "--search", "shared")
    assert run(*sound, "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "There is nothing to mend" in told
    assert "Within the training length it changes by" in told
    assert not (tmp_path / "out").exists()
    assert run(*sound, "--out", tmp_path / "out", "--force") == 0
    assert "It was edited all the same." in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_advice_can_be_followed_as_it_stands(tmp_path: Path) -> None:
    """But for the name of the model, and what the user gave to the audit as well."""
    model, tokens = load_any_model(CHECKPOINT).model, load_tokenizer("bytes").encode(bundled_text())
    result = audit(model, tokens[:1024], train_length=64, length=512, precision=False)
    (advice,) = {f.advice for f in result.findings if f.advice.startswith("keelback repair")}
    assert advice in result.verdict
    command = shlex.split(advice.replace("MODEL", str(CHECKPOINT)))[1:]
    command += ["--tokenizer", "bytes", "--search", "shared", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(("harm", "forced"), [(0.0, True), (0.5, False)])
def test_advice_to_clip_says_what_it_takes(harm: float, forced: bool) -> None:
    """A model whose states do not decay: where it holds all the same, nothing is gained."""
    model = Hoarding(harm)
    result = audit(model, TEXT, train_length=TRAINED, length=TARGET, precision=False)
    (unstable,) = [f for f in result.findings if f.statement.startswith("Unstable")]
    lengths = f"--train-length {TRAINED} --target-length {TARGET}"
    clip = f"keelback repair MODEL {lengths} --method clip"
    assert unstable.advice == f"clip the abscissa ({clip}{' --force' if forced else ''})"
    kept = mended(model, method="clip", force=forced)
    assert kept.method == "clip"
