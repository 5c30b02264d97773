"""The training monitor in the trainers of transformers and Lightning, and in trackers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MambaConfig, MambaForCausalLM, Trainer, TrainingArguments

from keelback.audit import (
    TrainingMonitor,
    lightning_callback,
    log_to_open_runs,
    log_to_tensorboard,
    transformers_callback,
)
from keelback.errors import InputError
from keelback.models import SelectiveSSM


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


def trained_with(
    callback: Any, model: Any, folder: Path, steps: int = 6, resume: bool = False, **options: Any
) -> Trainer:
    settings: dict[str, Any] = {"report_to": [], "save_strategy": "no", "logging_steps": 2}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=3,
        use_cpu=True,
        disable_tqdm=True,
        **(settings | options),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sequences(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
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


@pytest.mark.parametrize("restores", [False, True])
def test_a_training_that_resumes_keeps_its_history(tmp_path: Path, restores: bool) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    trained_with(transformers_callback(every=2), tiny_mamba(), tmp_path, 4, **saving)
    callback = transformers_callback(every=2)
    trainer = trained_with(
        callback, tiny_mamba(), tmp_path, 8, resume=True,
        restore_callback_states_from_checkpoint=restores, **saving,
    )  # fmt: skip
    (own,) = [c for c in trainer.callback_handler.callbacks if hasattr(c, "monitor")]
    assert [r.step for r in own.monitor.readings] == [2, 4, 6, 8]
    again = transformers_callback(every=2)
    trained_with(again, tiny_mamba(), tmp_path / "other", 4)
    assert [r.step for r in again.monitor.readings] == [2, 4]


def test_gradient_accumulation_in_transformers(tmp_path: Path) -> None:
    callback = transformers_callback(every=1)
    trained_with(callback, tiny_mamba(), tmp_path, 3, gradient_accumulation_steps=2)
    assert [r.step for r in callback.monitor.readings] == [1, 2, 3]


def test_rates_stay_low_beneath_the_trainers_scheduler(tmp_path: Path) -> None:
    model = tiny_mamba()
    with torch.no_grad():
        model.backbone.layers[0].mixer.x_proj.weight *= 1e36
    callback = transformers_callback(every=5, action="lower-rate")
    options = {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1}
    trainer = trained_with(callback, model, tmp_path, 8, **options)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates[:5] == [1e-3] * 5
    assert rates[5:] == pytest.approx([3e-4] * 3)


def test_a_model_without_state_space_layers_trains_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=32)
    trainer = trained_with(transformers_callback(every=1), GPT2LMHeadModel(config), tmp_path, 2)
    assert trainer.state.global_step == 2
    assert "no state-space layer in GPT2LMHeadModel" in caplog.text
    with pytest.raises(InputError, match="no state-space layer"):
        trained_with(transformers_callback(action="stop"), GPT2LMHeadModel(config), tmp_path, 2)


def test_readings_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trained_with(transformers_callback(every=2), tiny_mamba(), tmp_path, report_to=["tensorboard"])
    assert _scalars(tmp_path / "runs" / "keelback") == [2, 4, 6]


def _scalars(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars("keelback/log_state")]


def monitored(log: Any) -> TrainingMonitor:
    model = tiny_mamba()
    monitor = TrainingMonitor(model, every=1, log=log)
    for step in range(3):
        monitor.after_step(step, torch.arange(40).view(2, 20) % 8)
    assert monitor.failures == []
    return monitor


def test_a_writer_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    monitored(log_to_tensorboard(SummaryWriter(str(tmp_path))))
    assert _scalars(tmp_path) == [0, 1, 2]


def test_an_open_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="test", dir=str(tmp_path))
    try:
        last = monitored(log_to_open_runs).summary()
        assert run.summary["keelback/log_state"] == pytest.approx(last["keelback/log_state"])
        assert run.summary["train/global_step"] == 2
    finally:
        run.finish()


def test_an_open_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    experiment = mlflow.create_experiment("test", artifact_location=str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        monitored(log_to_open_runs)
    client = mlflow.tracking.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "keelback/log_state")
    assert [point.step for point in history] == [0, 1, 2]


def test_an_open_run_of_trackio(monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio")
    told: list[tuple[int, dict[str, float]]] = []
    context = sys.modules["trackio.context_vars"]
    token = context.current_run.set(object())
    monkeypatch.setattr(trackio, "log", lambda values, step: told.append((step, values)))
    try:
        monitored(log_to_open_runs)
    finally:
        context.current_run.reset(token)
    assert [step for step, _ in told] == [0, 1, 2]
    assert "keelback/log_state" in told[0][1]


def test_without_an_open_run_nothing_is_logged() -> None:
    log_to_open_runs({"keelback/alarms": 0.0}, 1)


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch")


def fit(lightning: Any, module: Any, callback: Any, folder: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False}
    checkpoint = options.pop("ckpt_path", None)
    trainer = lightning.Trainer(
        callbacks=[callback],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **(settings | options),
    )
    loader = torch.utils.data.DataLoader(Sequences(), batch_size=3)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


def a_module_that_holds_the_model(lightning: Any, *_: Any) -> Any:
    class Wrapped(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_mamba()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    return Wrapped()


def a_module_that_is_the_model(lightning: Any, calls: str = "module", vocab: int = 8) -> Any:
    """Its largest child is the state-space layer or, with many words, the head."""

    class Own(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocab, 16)
            self.ssm = SelectiveSSM(d_model=16, d_state=4, spectral_abscissa=-0.1)
            self.head = nn.Linear(16, vocab)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.ssm(self.embedding(tokens)))
            return logits

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            tokens = batch["input_ids"]
            if calls == "module":
                logits = self(tokens)
            elif calls == "forward":
                logits = self.forward(tokens)
            else:
                logits = self.head(self.ssm(self.embedding(tokens)))
            return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    return Own()


@pytest.mark.parametrize("vocab", [8, 5000])
@pytest.mark.parametrize("calls", ["module", "forward", "its parts"])
def test_a_lightning_module_that_is_the_model(
    lightning: Any, tmp_path: Path, calls: str, vocab: int
) -> None:
    callback = lightning_callback(every=2)
    fit(lightning, a_module_that_is_the_model(lightning, calls, vocab), callback, tmp_path)
    assert [r.step for r in callback.monitor.readings] == [2, 4]
    assert {r.layer for r in callback.monitor.readings} == {"ssm"}
    assert callback.monitor.failures == []


def test_a_lightning_module_that_holds_the_model(lightning: Any, tmp_path: Path) -> None:
    callback = lightning_callback(every=1)
    module = a_module_that_holds_the_model(lightning)
    trainer = fit(lightning, module, callback, tmp_path, accumulate_grad_batches=2)
    assert [r.step for r in callback.monitor.readings] == [0, 1, 2]
    assert float(trainer.callback_metrics["keelback/alarms"]) == 0.0
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


def test_a_lightning_module_without_state_space_layers(
    lightning: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 1)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.layer(batch["input_ids"].float()).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-6)

    trainer = fit(lightning, Other(), lightning_callback(every=1), tmp_path)
    assert trainer.global_step == 4
    assert "no state-space layer in Other" in caplog.text


@pytest.mark.parametrize("made", [a_module_that_holds_the_model, a_module_that_is_the_model])
def test_lightning_on_two_processes_its_loggers_and_its_checkpoints(
    lightning: Any, tmp_path: Path, made: Callable[..., Any]
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    options = {"enable_checkpointing": True, "log_every_n_steps": 1}
    logger = CSVLogger(tmp_path, name="first", version="")
    fit(
        lightning, made(lightning), lightning_callback(every=1), tmp_path,
        logger=logger, strategy="ddp_fork", devices=2, **options,
    )  # fmt: skip
    assert _steps(tmp_path / "first" / "metrics.csv") == [1, 2]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    callback = lightning_callback(every=1)
    fit(
        lightning, made(lightning), callback, tmp_path,
        ckpt_path=checkpoint, max_epochs=2, **options,
    )  # fmt: skip
    assert [r.step for r in callback.monitor.readings] == [1, 2, 3, 4, 5, 6]


def _steps(file: Path) -> list[int]:
    import csv

    with file.open() as lines:
        return [int(row["step"]) for row in csv.DictReader(lines) if row.get("keelback/log_state")]


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
