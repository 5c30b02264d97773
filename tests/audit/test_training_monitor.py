"""The training monitor: what it reads is right, it warns in time, it acts, it keeps quiet."""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keelback.audit import TrainingMonitor, find_layers, watching
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


def test_median_slope() -> None:
    line = [(i, 2.0 * i) for i in range(5)]
    assert median_slope(line) == 2.0
    assert median_slope([*line[:4], (4, 50.0)]) == pytest.approx(2.0)
    assert median_slope(line[:4]) == 0.0
    assert median_slope([(-1, math.inf), *line]) == 2.0


def test_a_step_is_read_once_however_often_it_is_told() -> None:
    """With gradient accumulation, the same count of updates comes several times."""
    monitor = TrainingMonitor(classifier(0.5), every=2)
    told = [len(monitor.after_step(step, TOKENS)) for step in (0, 0, 0, 1, 1, 2, 2)]
    assert told == [1, 0, 0, 0, 0, 1, 0]
    assert [reading.step for reading in monitor.readings] == [0, 2]


def test_a_monitor_goes_on_where_an_earlier_one_ended() -> None:
    model = classifier(0.0, seed=1)
    whole, first = (TrainingMonitor(model, every=5, horizon=100) for _ in range(2))
    second: TrainingMonitor | None = None
    for step in range(0, 120, 5):
        with torch.no_grad():
            model.ssm.state_matrix.A[0, 0] = 2e-3 * step
        if step == 60:
            second = TrainingMonitor(model, every=5, horizon=100)
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            assert second.after_step(55, TOKENS) == []
        for monitor in (whole, first if second is None else second):
            monitor.after_step(step, TOKENS)
    assert second is not None
    assert second.readings == whole.readings
    assert second.alarms == whole.alarms != []


@pytest.mark.parametrize("action", ACTIONS)
def test_no_reading_that_fails_ends_a_training(
    action: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier(0.5)
    monitor = TrainingMonitor(model, every=1, action=action, log=lambda values, step: 1 / 0)
    assert monitor.after_step(0, TOKENS + 99) == []
    assert monitor.after_step(1, None) == []
    assert monitor.after_step(2, lambda: None) == []
    assert len(monitor.after_step(3, TOKENS)) == 1
    words = ("index out of range", "no batch", "calls none of the layers", "division by zero")
    assert len(monitor.failures) == 4
    assert all(w in failure for w, failure in zip(words, monitor.failures, strict=True))
    assert len(caplog.records) == 1
    assert "the training goes on" in caplog.text


def test_an_edit_that_fails_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(0.5)
    monitor = TrainingMonitor(model, every=1, action="clip")
    layer = find_layers(model)[0]
    monkeypatch.setattr(type(layer.adapter), "edit_rates", lambda *given: 1 / 0)
    assert len(monitor.after_step(0, TOKENS)) == 1
    assert monitor.failures == ["ssm could not be edited: division by zero"]


def test_what_runs_the_model_may_be_given() -> None:
    model = classifier(0.05)
    given, usual = TrainingMonitor(model), TrainingMonitor(model)
    given.after_step(0, lambda: model.trace(TOKENS[:4]))
    usual.after_step(0, TOKENS)
    assert given.readings == usual.readings


def test_lowered_rates_stay_low_beneath_schedulers() -> None:
    model = classifier(0.5)
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in list(model.parameters())[:2]]
    chain = torch.optim.lr_scheduler.SequentialLR(
        optimizers[0],
        [torch.optim.lr_scheduler.LambdaLR(optimizers[0], lambda step: 1.0) for _ in range(2)],
        [5],
    )
    other = torch.optim.lr_scheduler.LambdaLR(optimizers[1], lambda step: 1.0)
    monitor = TrainingMonitor(model, action="lower-rate")
    monitor.after_step(0, TOKENS, optimizers, [chain, other])
    for _ in range(8):
        for own in optimizers:
            own.step()
        chain.step()
        other.step()
        assert [own.param_groups[0]["lr"] for own in optimizers] == pytest.approx([0.3, 0.3])
