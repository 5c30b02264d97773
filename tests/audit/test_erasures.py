"""What delta rules erase, and whether their steps enlarge states, against singular values."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from keelback.audit import adapters, audit
from keelback.audit._delta_rule import DeltaRuleRecurrence
from keelback.audit._spans import Span
from keelback.audit._statistics import LayerStatistics
from keelback.audit.adapters import Adapter
from keelback.delta import delta_rule
from keelback.models import MambaLanguageModelConfig

HEADS, KEY = 2, 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(seed=761, by_channel=True, size=1.09375, least=-1.0, greatest=2.0)
@given(
    seed=st.integers(0, 1000),
    by_channel=st.booleans(),
    size=st.floats(0.1, 3.0),
    least=st.floats(-1.0, 0.0),
    greatest=st.floats(0.1, 3.0),
)
def test_growth_is_the_largest_singular_value(
    seed: int, by_channel: bool, size: float, least: float, greatest: float
) -> None:
    torch.manual_seed(seed)
    length, rates = 6, HEADS * KEY if by_channel else HEADS
    key = F.normalize(torch.randn(1, length, HEADS, KEY), dim=-1) * size
    beta = torch.rand(1, length, HEADS) * (greatest - least) + least
    delta, A = torch.rand(1, length, rates), -torch.rand(rates, 1)
    rule = DeltaRuleRecurrence(key, key, torch.randn(1, length, HEADS, 4), beta, delta, A)
    statistics = LayerStatistics(A, Span(length, length), 1)
    statistics.update(rule, torch.zeros(1, length, 3), None)
    matrices = torch.eye(KEY) - beta[..., None, None] * key.unsqueeze(-1) * key.unsqueeze(-2)
    decays = (delta * A[:, 0]).exp().unflatten(-1, (HEADS, -1)).expand(1, length, HEADS, -1)
    exact = torch.linalg.matrix_norm(matrices * decays.unsqueeze(-2), ord=2).max()
    found = statistics.erasure.growth
    if not by_channel or exact > 1:
        assert found == pytest.approx(float(exact), rel=1e-5)
    else:
        assert float(exact) * (1 - 1e-5) <= found <= 1
    shares = beta * key.square().sum(-1)
    told = statistics.erasure.to_json()
    assert told["min"] == pytest.approx(float(shares.min()), rel=1e-5)
    assert told["max"] == pytest.approx(float(shares.max()), rel=1e-5)
    assert told["above_1"] == float((shares > 1.01).double().mean())
    assert math.isnan(told["median"]) == bool(shares.min() < 0)


def test_the_bound_of_many_rates_alarms_no_one() -> None:
    key = torch.eye(KEY)[0].expand(1, 1, 1, KEY)
    logs = torch.tensor([-3.0] + [-0.001] * (KEY - 1))
    rule = DeltaRuleRecurrence(
        key, key, key, torch.full((1, 1, 1), 2.5), torch.ones(1, 1, KEY), logs.unsqueeze(-1)
    )
    _, growth, share = rule.erased()
    assert growth == pytest.approx(math.exp(-0.001), rel=1e-5)
    assert share == 2.5


def test_steps_that_are_not_finite_hide_no_other() -> None:
    key = torch.eye(KEY)[0].expand(1, 3, 1, KEY)
    beta, delta = torch.tensor([math.nan, 4.0, 1.0]).view(1, 3, 1), torch.ones(1, 3, 1)
    rule = DeltaRuleRecurrence(key, key, key, beta, delta, torch.tensor([[-0.5]]))
    _, growth, share = rule.erased()
    assert growth == pytest.approx(3 * math.exp(-0.5), rel=1e-5)
    assert share == 4.0


def test_rounded_keys_turn_nothing_round() -> None:
    torch.manual_seed(0)
    key = F.normalize(torch.randn(1, 500, HEADS, 128).bfloat16().float(), dim=-1).bfloat16().float()
    A, delta = torch.full((HEADS, 1), -0.1), torch.ones(1, 500, HEADS)
    rule = DeltaRuleRecurrence(key, key, key, torch.ones(1, 500, HEADS), delta, A)
    statistics = LayerStatistics(A, Span(500, 500), 1)
    statistics.update(rule, torch.zeros(1, 500, 3), None)
    told = statistics.erasure.to_json()
    assert told["max"] > 1
    assert told["above_1"] == 0


class Layer(nn.Module):
    """A gated delta rule whose keys are all alike, and whose beta is the same everywhere."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.q, self.v = (nn.Linear(16, HEADS * KEY, bias=False) for _ in range(2))
        self.log_rates = nn.Parameter(torch.full((HEADS,), -4.6))
        self.beta = beta

    def parts(self, q: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        q, v = (x.unflatten(-1, (HEADS, KEY)) for x in (q, v))
        key = F.normalize(torch.ones_like(q), dim=-1)
        return q / KEY, key, v, q.new_full(q.shape[:-1], self.beta)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, beta = self.parts(self.q(x), self.v(x))
        decays = (-self.log_rates.exp()).expand(*x.shape[:2], HEADS)
        y = delta_rule(q, k, v, decays, beta, scale=1.0)
        assert isinstance(y, Tensor)
        return y.flatten(2)


class Reading(Adapter):
    kind = "constant-delta"
    projection = None
    watched = ("q", "v")

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, Layer)

    def state_matrix(self, module: Any) -> Tensor:
        return -module.log_rates.detach().exp().unsqueeze(-1)

    def read(self, module: Any, call: Any) -> DeltaRuleRecurrence:
        parts = module.parts(*(call.seen[name].output for name in self.watched))
        steps = torch.ones(*parts[0].shape[:2], HEADS)
        return DeltaRuleRecurrence(*parts, steps, self.state_matrix(module))

    def hand_on(self, module: Any, call: Any, output: Tensor) -> Tensor:
        return output[0]


class Model(nn.Module):
    def __init__(self, beta: float) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(50, 16), Layer(beta)
        self.head = nn.Linear(16, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + F.layer_norm(self.layer(x), (16,)))


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "ADAPTERS", [Reading(), *adapters.ADAPTERS])


def audited(beta: float) -> Any:
    torch.manual_seed(0)
    return audit(Model(beta), torch.randint(50, (160,)), train_length=20, length=80)


@pytest.mark.parametrize("beta", [2.5, -0.5])
def test_states_that_erasing_enlarges_are_never_called_stable(beta: float) -> None:
    result = audited(beta)
    assert "Unstable: some states grow" in result.verdict
    assert f"erases {beta} times" in result.verdict
    assert "Stable" not in result.verdict
    [layer] = result.to_json()["layers"]
    assert layer["state"]["growth_median"] > 100
    assert layer["erased"]["growth"] == pytest.approx(abs(1 - beta) * math.exp(-0.01), rel=1e-3)


def test_states_that_overflow_are_unstable() -> None:
    torch.manual_seed(0)
    result = audit(Model(4.0), torch.randint(50, (800,)), train_length=20, length=400)
    assert any(f.statement == "States overflow." for f in result.findings)
    assert "Unstable: some states grow" in result.verdict


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_within_the_limits_the_decays_decide(beta: float) -> None:
    result = audited(beta)
    assert "Stable: every state decays." in result.verdict
    [layer] = result.to_json()["layers"]
    assert layer["erased"]["median"] == pytest.approx(beta, rel=0.01)
    assert layer["erased"]["above_1"] == float(beta > 1)
    notes = [f.statement for f in result.findings]
    assert (
        f"A typical step of a delta rule erases {beta:.0%} of what is held along its key." in notes
    )


def test_other_layers_erase_nothing() -> None:
    model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
    result = audit(model, tokens=torch.randint(40, (200,)), train_length=40)
    [layer] = result.to_json()["layers"]
    assert set(layer["erased"].values()) == {None}
    assert not any("delta rule" in finding.statement for finding in result.findings)
