"""The training monitor: what it reads is right, it warns in time, it acts, it keeps quiet."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MambaConfig, MambaForCausalLM, Trainer, TrainingArguments

from keelback.audit import (
    TrainingMonitor,
    find_layers,
    lightning_callback,
    transformers_callback,
    watching,
)
from keelback.audit.monitoring._alarms import ACTIONS, median_slope
from keelback.errors import InputError
from keelback.models import MambaLanguageModelConfig, SelectiveSSMConfig

TOKENS = torch.randint(0, 5, (8, 200), generator=torch.Generator().manual_seed(3))


def classifier(abscissa: float, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return SelectiveSSMConfig(vocab_size=5, spectral_abscissa=abscissa).build(generator)


def test_readings_are_those_of_the_recurrence() -> None:
    model = classifier(0.05)
    monitor = TrainingMonitor(model)
    assert monitor.summary() == {}
    assert monitor.after_step(0, TOKENS) == []
    assert monitor.after_step(1, TOKENS) == []
    (reading,) = monitor.readings
    seen: list[Any] = []
    with torch.no_grad(), watching(find_layers(model), lambda _, __, r: seen.append(r)):
        model.trace(TOKENS[:4])
    (recurrence,) = seen
    assert reading.spectral_abscissa == pytest.approx(0.05)
    assert reading.delta == pytest.approx(float(recurrence.delta.mean()))
    total = recurrence.delta.sum(1).amax(0)
    assert reading.log_growth == pytest.approx(float((recurrence.A.amax(-1) * total).max()))
    peak = float(recurrence.state_norms(range(200)).max())
    assert 0 <= math.log(peak) - reading.log_state < 1.0
    assert monitor.history()["step"].to_list() == [0]
    assert monitor.summary()["keelback/log_state"] == reading.log_state


def test_a_model_that_cannot_train_is_told_before_the_first_step() -> None:
    monitor = TrainingMonitor(classifier(1.0))
    (alarm,) = monitor.after_step(0, TOKENS)
    assert alarm.steps_left == 0
    assert alarm.layer == "ssm"
    assert "overflow now" in alarm.message
    assert not monitor.should_stop


def test_a_trend_is_followed_to_its_end() -> None:
    """The abscissa rises steadily; the alarm comes before the overflow and says when it will be."""
    model = classifier(0.0, seed=1)
    monitor = TrainingMonitor(model, every=5, horizon=100)
    limit = math.log(torch.finfo(torch.float32).max) / 2
    first, crossed = None, None
    for step in range(0, 400, 5):
        with torch.no_grad():
            model.ssm.state_matrix.A[0, 0] = 5e-4 * step
        alarms = monitor.after_step(step, TOKENS)
        first = first or (alarms[0] if alarms else None)
        if monitor.readings[-1].log_state >= limit:
            crossed = step
            break
    assert first is not None
    assert crossed is not None
    assert 10 < crossed - first.step <= 100
    assert first.steps_left == pytest.approx(crossed - first.step, rel=0.4)


def test_one_update_of_the_optimiser_can_be_too_much() -> None:
    model = classifier(0.0, seed=1)
    monitor = TrainingMonitor(model)
    small, large = (torch.optim.Adam(model.parameters(), lr=lr) for lr in (1e-4, 1.0))
    assert monitor.after_step(0, TOKENS, small) == []
    (alarm,) = monitor.after_step(50, TOKENS, large)
    assert alarm.steps_left < 1
    stack = MambaLanguageModelConfig(vocab_size=5, d_model=8, n_layers=1, d_state=2).build()
    never = TrainingMonitor(stack)
    assert never.after_step(0, TOKENS, torch.optim.Adam(stack.parameters(), lr=1.0)) == []


@pytest.mark.parametrize("action", ACTIONS)
def test_actions(action: Any) -> None:
    model = classifier(0.5)
    before = model.ssm.A.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monitor = TrainingMonitor(model, every=1, action=action)
    assert len(monitor.after_step(0, TOKENS, optimizer)) == 1
    grew = monitor.readings[-1].log_growth
    monitor.after_step(1, TOKENS, optimizer)
    limit = math.log(torch.finfo(torch.float32).max) / 2
    assert monitor.should_stop == (action == "stop")
    assert (optimizer.param_groups[0]["lr"] < 1.0) == (action == "lower-rate")
    if action in ("clip", "rescale"):
        assert monitor.readings[-1].log_growth <= 0.3 * limit < grew
        assert len(monitor.alarms) == 1
    else:
        assert torch.equal(model.ssm.A, before)
    if action == "clip":
        decays = before < 0
        assert torch.equal(model.ssm.A[decays], before[decays])


def test_healthy_training_raises_no_alarm() -> None:
    torch.manual_seed(0)
    model = MambaLanguageModelConfig(vocab_size=5, d_model=8, n_layers=2, d_state=4).build()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    monitor = TrainingMonitor(model, every=5)
    for step in range(40):
        monitor.after_step(step, TOKENS[:, :64], optimizer)
        logits = model(TOKENS[:, :64])
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:64].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert monitor.alarms == []
    assert len(monitor.readings) == 16
    assert model.training


def test_reading_changes_nothing() -> None:
    model = classifier(0.0).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    TrainingMonitor(model).after_step(0, TOKENS)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"action": "pray"}, "action is 'pray'"),
        ({"every": 0}, "every is 0"),
        ({"horizon": -1}, "horizon is -1"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TrainingMonitor(classifier(0.0), **options)
    with pytest.raises(InputError, match="no state-space layer"):
        TrainingMonitor(nn.Linear(2, 2))


def testmedian_slope() -> None:
    line = [(i, 2.0 * i) for i in range(5)]
    assert median_slope(line) == 2.0
    assert median_slope([*line[:4], (4, 50.0)]) == pytest.approx(2.0)
    assert median_slope(line[:4]) == 0.0
    assert median_slope([(-1, math.inf), *line]) == 2.0


def tiny_mamba() -> Any:
    torch.manual_seed(0)
    return MambaForCausalLM(
        MambaConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, state_size=2)
    )


class Sequences(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(index, index + 20) % 8
        return {"input_ids": ids, "labels": ids}


def trained_with(callback: Any, model: Any, folder: Path, steps: int = 6) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=3,
        logging_steps=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sequences(), callbacks=[callback])
    trainer.train()
    return trainer


def test_in_transformers_trainer(tmp_path: Path) -> None:
    model = tiny_mamba()
    callback = transformers_callback(every=2)
    trainer = trained_with(callback, model, tmp_path)
    assert [r.step for r in callback.monitor.readings] == [2, 4, 6]
    logged = [entry for entry in trainer.state.log_history if "keelback/log_state" in entry]
    assert len(logged) >= 3
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_stopping_transformers_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_mamba()
    with torch.no_grad():
        model.backbone.layers[0].mixer.x_proj.weight *= 1e36
    trainer = trained_with(transformers_callback(every=1, action="stop"), model, tmp_path)
    assert trainer.state.global_step == 1
    assert "backbone.layers.0.mixer" in caplog.text


def test_in_lightning_trainer(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Wrapped(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_mamba()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    callback = lightning_callback(every=2)
    trainer = lightning.Trainer(
        max_steps=4,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Wrapped(), torch.utils.data.DataLoader(Sequences(), batch_size=3))
    assert [r.step for r in callback.monitor.readings] == [2, 4]


def test_lightning_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    original = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if "lightning" in name:
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install lightning"):
        lightning_callback()
