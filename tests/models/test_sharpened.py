"""The bound as a function of the weights: value, gradient, and what training makes of it."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keelback.bounds import ClassConstants, StepSums, log_output_bound
from keelback.certify import measure_constants
from keelback.cli.app import main
from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import (
    SelectiveSSMConfig,
    VanillaRNNConfig,
    log_gate_sensitivity,
    scale_to_sensitivity,
)
from keelback.sweeps import TrainingRun
from keelback.training import Recipe, train

CONFIG = SelectiveSSMConfig(vocab_size=5, d_model=4, d_state=3)


def built(seed: int, abscissa: float = 0.0, config: SelectiveSSMConfig = CONFIG):
    own = config.model_copy(update={"spectral_abscissa": abscissa})
    return own.build(torch.Generator().manual_seed(seed)).double()


def by_bounds(c: ClassConstants) -> float:
    """The same from `keelback.bounds`, which shares no code with it."""
    sums = StepSums.of(c.s_A, c.log_largest_step, c.T)
    return log_output_bound(c) + math.log1p(math.exp(sums.log_relative))


@given(
    seed=st.integers(0, 100),
    abscissa=st.sampled_from([-3.0, -0.2, -1e-6, 0.0, 1e-9, 0.05, 0.4]),
    length=st.sampled_from([1, 2, 7, 60]),
)
def test_it_is_what_the_bounds_say(seed: int, abscissa: float, length: int) -> None:
    model = built(seed, abscissa)
    found = float(log_gate_sensitivity(model, dict(model.named_parameters()), length).detach())
    assert found == pytest.approx(by_bounds(measure_constants(model, length, 10)), abs=1e-9)


def test_long_unstable_classes_stay_finite() -> None:
    model = built(1, 30.0)
    found = float(log_gate_sensitivity(model, dict(model.named_parameters()), 5000).detach())
    assert 1e5 < found < math.inf


@pytest.mark.parametrize("abscissa", [-3.0, -0.2, 0.05])
def test_its_gradient_is_that_of_differences(abscissa: float) -> None:
    model = built(3, abscissa)
    names = [name for name, _ in model.named_parameters()]

    def value(*tensors: torch.Tensor) -> torch.Tensor:
        return log_gate_sensitivity(model, dict(zip(names, tensors, strict=True)), 9)

    with torch.no_grad():  # Without ties the largest entry is one, and the function smooth.
        model.ssm.state_matrix.A.sub_(0.05 * torch.arange(12.0).reshape(4, 3))
    own = [p.detach().clone().requires_grad_() for _, p in model.named_parameters()]
    assert torch.autograd.gradcheck(value, own)


def test_replicas_have_their_own_values() -> None:
    models = [built(seed, -0.1) for seed in range(3)]
    alone = [float(log_gate_sensitivity(m, dict(m.named_parameters()), 9).detach()) for m in models]
    stacked = {
        name: torch.stack([dict(m.named_parameters())[name] for m in models])
        for name, _ in models[0].named_parameters()
    }
    assert log_gate_sensitivity(models[0], stacked, 9).tolist() == pytest.approx(alone)


def test_initial_values_have_the_sensitivity_that_is_asked_for() -> None:
    config = CONFIG.model_copy(update={"initial_sensitivity": 7.0, "initial_length": 40})
    model = config.build(torch.Generator().manual_seed(2))
    plain = CONFIG.build(torch.Generator().manual_seed(2))
    found = log_gate_sensitivity(model, dict(model.named_parameters()), 40)
    assert float(found.detach().exp()) == pytest.approx(7.0, rel=1e-5)
    ratio = model.ssm.W_B / plain.ssm.W_B
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio))
    assert torch.allclose(model.ssm.W_C, plain.ssm.W_C * ratio[0, 0])
    assert torch.equal(model.embedding, plain.embedding)
    scale_to_sensitivity(model, 40, 14.0)
    found = log_gate_sensitivity(model, dict(model.named_parameters()), 40)
    assert float(found.detach().exp()) == pytest.approx(14.0, rel=1e-5)


def test_a_penalty_shrinks_the_bound_and_none_changes_nothing() -> None:
    split = get_task("majority", seq_len=12, n_train=120).split("train")

    def trained(penalty: float):
        model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(1))
        recipe = Recipe(epochs=6, bound_penalty=penalty)
        [result] = train([model], [split], recipe, seeds=[1])
        return model, result

    values = {}
    for penalty in (0.0, 0.5):
        model, result = trained(penalty)
        values[penalty] = float(log_gate_sensitivity(model, result.weights, split.seq_len))
    assert values[0.5] < values[0.0] - 1
    both = train(
        [SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(s)) for s in (1, 2)],
        [split, split],
        Recipe(epochs=6, bound_penalty=0.5),
        seeds=[1, 2],
    )
    again = float(log_gate_sensitivity(model, both[0].weights, split.seq_len))
    assert again == pytest.approx(values[0.5], abs=1e-3)


def test_it_is_for_the_model_that_it_is_about() -> None:
    split = get_task("majority", seq_len=8, n_train=20).split("train")
    model = VanillaRNNConfig(vocab_size=2).build()
    with pytest.raises(InputError, match="bound_penalty is for the model selective-ssm"):
        train([model], [split], Recipe(epochs=1, bound_penalty=0.1), seeds=[1])


def test_runs_without_them_keep_their_names() -> None:
    model = {"kind": "selective-ssm", "vocab_size": 2}
    plain = TrainingRun(task="majority", task_settings={}, model=model, seed=1)
    assert "initial_sensitivity" not in plain.fields()["model"]
    assert "bound_penalty" not in plain.fields()["recipe"]
    other = plain.model_copy(update={"recipe": Recipe(bound_penalty=0.1)})
    scaled = TrainingRun(
        task="majority", task_settings={}, model={**model, "initial_sensitivity": 2.0}, seed=1
    )
    assert len({plain.name, other.name, scaled.name}) == 3
    assert (
        TrainingRun.model_validate({k: v for k, v in scaled.fields().items() if k != "kind"})
        == scaled
    )


def test_the_command_takes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        f"train --task majority --seq-len 12 --epochs 1 --cpu --out {tmp_path} "
        "--bound-penalty 0.25 --initial-sensitivity 5"
    ).split()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None), capsys.readouterr().err
    [record] = tmp_path.glob("runs/*/run.json")
    found = json.loads(record.read_text())
    fields = found["run"]
    assert fields["recipe"]["bound_penalty"] == 0.25
    assert fields["model"]["initial_sensitivity"] == 5.0
    assert fields["model"]["initial_length"] == 12
