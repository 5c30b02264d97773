"""Layers in the form of fla's: read as they compute, proved, look-alikes named."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fla_layers import (
    HEADS,
    KEY,
    VALUE,
    WIDTH,
    Erases,
    Gdn,
    Gla,
    Hgrn2,
    Kda,
    LongKeys,
    NoBound,
    OtherKeys,
    OtherRates,
    OtherRoot,
    ReadsBefore,
    Retention,
    SimpleGla,
)
from torch import Tensor, nn
from watched import proofs

from keelback.audit import TrainingMonitor, audit, find_layers, watching
from keelback.benchmarks.lookalike_layers import LanguageModel

TOKENS = torch.randint(0, 13, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


class Alone(nn.Module):
    """A layer that gives its output alone, and may be told a lower bound."""

    def __init__(self, layer: nn.Module, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        return self.layer(hidden_states, **self.options)[0]


def model() -> LanguageModel:
    bound = torch.rand(HEADS * KEY)
    return LanguageModel(
        *(Alone(layer) for layer in (Gla(), SimpleGla(convolved=True), Retention())),
        Alone(Hgrn2(), lower_bound=bound),
    )


EVERY = [
    Gla,
    lambda: Gla(kv_heads=2, convolved=True, clamp_min=-0.03),
    lambda: Gla(fused=False, feature_map=F.relu),
    lambda: Gla(gated=False),
    SimpleGla,
    lambda: SimpleGla(kv_heads=1, convolved=True, fused=False),
    Retention,
    lambda: Retention(kv_heads=2, convolved=True, gated=False),
    Hgrn2,
    lambda: Hgrn2(convolved=True),
    Gdn,
    lambda: Gdn(value_heads=2, convolved=False, gated=False, allow_neg_eigval=True),
    Kda,
    lambda: Kda(value_heads=2, lower_bound=-5.0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", EVERY)
def test_they_are_proved(layer: Any, dtype: torch.dtype) -> None:
    (found,) = proofs(layer().to(dtype), torch.randn(2, 70, WIDTH).to(dtype))
    assert found.is_proof, found.why_not
    assert found.difference < 1e-4


def test_the_lower_bound_of_forget_gates() -> None:
    for index in (0, 1):
        alone = Alone(Hgrn2(index), lower_bound=torch.rand(HEADS * KEY))
        (found,) = proofs(alone, torch.randn(2, 20, WIDTH))
        assert found.is_proof, found.why_not


@pytest.mark.parametrize(
    "layer",
    [
        *(OtherRoot, ReadsBefore, Erases, OtherRates, OtherKeys, LongKeys),
        lambda: NoBound(lower_bound=-5.0),
    ],
)
def test_lookalikes_are_not_read(layer: Any) -> None:
    (found,) = proofs(layer(), torch.randn(2, 40, WIDTH))
    assert "does not give the layer's own result" in str(found.why_not)


def test_other_parts_are_not_read() -> None:
    layer = Gla()
    layer.gv_proj = nn.Linear(WIDTH, 3)
    (found,) = proofs(layer, torch.randn(2, 20, WIDTH))
    assert "its parameters do: gv_proj" in str(found.why_not)


class Cache:
    """As fla's: it knows how much each layer has seen."""

    def __init__(self, seen: dict[int, int]) -> None:
        self.seen = seen

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen.get(layer_idx, 0)


@pytest.mark.parametrize("layer", EVERY)
def test_padding_and_caches(layer: Any) -> None:
    """Most layers strike out the padding; what another has left in the cache says nothing."""
    own, found, steps = layer(), [], []
    x, mask = torch.randn(2, 30, WIDTH), torch.ones(2, 30)
    mask[0, :7] = 0
    with (
        torch.no_grad(),
        watching(
            find_layers(own),
            lambda _, __, recurrence: steps.append(recurrence),
            lambda _, replay: found.append(replay),
        ),
    ):
        own(x, attention_mask=mask)
        own(x, past_key_values=Cache({1 - own.layer_idx: 5}))
        own(x, past_key_values=Cache({own.layer_idx: 5}))
    assert len(found) == 2
    assert all(replay.is_proof for replay in found), found
    assert not (steps[0].delta * steps[0].A[:, 0])[0, :7].any()


def read(layer: nn.Module, x: Tensor) -> Any:
    own: list[Any] = []
    with torch.no_grad(), watching(find_layers(layer), lambda _, __, r: own.append(r)):
        layer(x)
    return own[0]


def test_rates_by_hand() -> None:
    x = torch.randn(1, 9, WIDTH)
    simple = SimpleGla()
    logs = -torch.log1p(torch.exp(-(x @ simple.gk_proj.weight.mT + simple.gk_proj.bias))) / 16
    torch.testing.assert_close(-read(simple, x).delta, logs)
    fixed = read(Retention(), x)
    assert torch.equal(fixed.delta, torch.ones(1, 9, HEADS))
    assert math.isclose(float(fixed.A[2, 0]), math.log(1 - 2**-7), rel_tol=1e-6)
    gla = Gla()
    down, up = gla.gk_proj
    gate = torch.sigmoid(x @ down.weight.mT @ up.weight.mT + up.bias) ** (1 / 16)
    own = read(gla, x)
    assert own.A.shape == (HEADS * KEY, 1)
    torch.testing.assert_close((own.delta * own.A[:, 0]).exp(), gate)


def test_rates_of_delta_rules_can_be_edited() -> None:
    x = torch.randn(1, 9, WIDTH)
    for layer in (Gdn(), Kda()):
        (found,) = find_layers(layer)
        A = found.state_matrix()
        edits = found.adapter.edit_rates(layer, 2 * A)
        assert edits is not None
        layer.A_log.data.copy_(edits["A_log"])
        torch.testing.assert_close(found.state_matrix(), 2 * A)
        assert (read(layer, x).delta > 0).all()
    bounded = Kda(lower_bound=-5.0)
    (found,) = find_layers(bounded)
    assert (found.state_matrix() == -5.0).all()
    assert found.adapter.edit_rates(bounded, found.state_matrix()) is None


@pytest.mark.parametrize("layer", [Gla, SimpleGla, Retention, Hgrn2])
def test_attention_and_state_norms_are_those_of_the_states(layer: Any) -> None:
    own = read(layer(), torch.randn(2, 40, WIDTH))
    rates = len(own.A)
    weights = own.attention(33, range(rates)).unflatten(1, (HEADS, -1)).sum(2)
    y = torch.einsum("bhs,bshv->bhv", weights, own.value[:, :34]).flatten(1)
    torch.testing.assert_close(y, own.output()[:, 33], rtol=1e-4, atol=1e-5)
    norms, h = own.state_norms([4, 39]), torch.zeros(2, HEADS, VALUE, KEY)
    for t in range(40):
        decay = (own.delta[:, t] * own.A[:, 0]).exp().unflatten(-1, (HEADS, 1, -1))
        h = h * decay + own.value[:, t].unsqueeze(-1) * own.key[:, t].unsqueeze(-2)
        if t in (4, 39):
            squares = h.square() if rates > HEADS else h.square().sum(-1, keepdim=True)
            expected = squares.mean(-2).sqrt().flatten(1)
            torch.testing.assert_close(norms[:, 0 if t == 4 else 1], expected)


def test_an_audit_and_a_monitor() -> None:
    result = audit(model(), TOKENS[:1].repeat(1, 3), train_length=20, length=100)
    kinds = ["gated-linear-attention", "simple-gated-linear-attention", "retention", "hgrn2"]
    assert result.layers["kind"].to_list() == kinds
    assert not result.not_audited
    retention = result.layers.row(2, named=True)
    assert math.isclose(retention["spectral_abscissa"], math.log(1 - 2**-8), rel_tol=1e-4)
    trained = model()
    monitor = TrainingMonitor(trained, every=1)
    monitor.after_step(0, TOKENS[:1])
    assert [reading.layer for reading in monitor.readings] == [x.name for x in find_layers(trained)]
    assert all(math.isfinite(reading.log_state) for reading in monitor.readings)
