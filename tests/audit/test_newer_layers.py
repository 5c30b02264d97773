"""Mamba-3 and RWKV-7: read as they compute, proved, and look-alikes named."""

import copy
import math
from typing import Any

import pytest
import torch
from newer_layers import (
    STATE,
    WIDTH,
    Block,
    FlaTimeMixing,
    LongKeys,
    Mamba3,
    NoBonus,
    OfFla,
    OtherDecay,
    OtherRates,
    RwkvModel,
    SharesSwapped,
    TimeMixing,
    TurnsBackwards,
)
from torch import nn
from watched import proofs

from keelback.audit import AuditResult, TrainingMonitor, audit, find_layers, repair, watching
from keelback.audit._parameters import keep
from keelback.benchmarks.lookalike_layers import LanguageModel

TOKENS = torch.randint(0, 13, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def mamba3_model() -> LanguageModel:
    return LanguageModel(Mamba3(), Mamba3(rank=2, groups=2, normed=True), Block())


def rwkv_model() -> RwkvModel:
    return RwkvModel(TimeMixing(0), TimeMixing(1))


@pytest.fixture(params=[mamba3_model, rwkv_model])
def seen(request: pytest.FixtureRequest) -> list[Any]:
    """The recurrences of every layer."""
    own: list[Any] = []
    model = request.param().eval()
    with torch.no_grad(), watching(find_layers(model), lambda _, __, r: own.append(r)):
        model(TOKENS)
    return own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [
        Mamba3,
        lambda: Mamba3(groups=2, pairs=STATE // 2, normed=True),
        lambda: Mamba3(rank=3),
        lambda: Mamba3(rank=2, groups=2, pairs=STATE // 2, normed=True),
        OfFla,
        lambda: Block(groups=2),
        lambda: Block(rank=3, groups=2),
        TimeMixing,
    ],
)
def test_they_are_proved(layer: Any, dtype: torch.dtype) -> None:
    (found,) = proofs(layer().to(dtype), torch.randn(2, 40, WIDTH).to(dtype))
    assert found.is_proof, found.why_not
    assert found.difference < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        *(OtherRates, TurnsBackwards, SharesSwapped, OtherDecay, LongKeys, NoBonus),
        lambda: TurnsBackwards(rank=2),
    ],
)
def test_lookalikes_are_not_read(layer: Any) -> None:
    (found,) = proofs(layer(), torch.randn(2, 40, WIDTH))
    assert "does not give the layer's own result" in str(found.why_not)


def test_other_parts_are_not_read() -> None:
    layer = Mamba3()
    layer.A_slow = nn.Parameter(torch.zeros(3))
    (found,) = proofs(layer, torch.randn(2, 20, WIDTH))
    assert "its parameters do: A_slow" in str(found.why_not)


def test_a_layer_that_is_not_the_first_needs_the_first_ones_values() -> None:
    (found,) = proofs(TimeMixing(1), torch.randn(2, 20, WIDTH))
    assert "called without v_first" in str(found.why_not)


class Cache:
    """As fla's: it knows how much each layer has seen."""

    def __init__(self, seen: dict[int, int]) -> None:
        self.seen = seen

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen.get(layer_idx, 0)


def test_the_form_of_fla_with_padding_and_caches() -> None:
    """What another layer has left in the cache says nothing of this one."""
    first, second = FlaTimeMixing(0), FlaTimeMixing(1)
    found: list[Any] = []
    x = torch.randn(2, 2, 30, WIDTH)
    mask = torch.ones(2, 30)
    mask[0, :7] = 0
    for layer in (first, second):
        values = None if layer is first else x[1]
        with (
            torch.no_grad(),
            watching(find_layers(layer), lambda *_: None, lambda _, replay: found.append(replay)),
        ):
            layer(x[0], attention_mask=mask, v_first=values)
            layer(x[0], past_key_values=Cache({1 - layer.layer_idx: 5}), v_first=values)
            layer(x[0], past_key_values=Cache({layer.layer_idx: 5}), v_first=values)
    assert len(found) == 4
    assert all(replay.is_proof for replay in found), found


def test_attention_weights_rebuild_the_output(seen: list[Any]) -> None:
    for recurrence in seen:
        if hasattr(recurrence, "value"):
            every = recurrence.attention(33, range(len(recurrence.A))).unflatten(1, (2, -1)).sum(2)
            y = torch.einsum("bhs,bshv->bhv", every, recurrence.value[:, :34]).flatten(1)
        elif recurrence.x.shape[3] == 1:
            weights = recurrence.attention(33, [0, 1, 2, 3])
            y = torch.einsum("bhs,bshrp->bhrp", weights, recurrence.x[:, :34]).flatten(1)
        else:
            assert (recurrence.attention(33, [1, 2]) >= 0).all()
            continue
        assert torch.allclose(y, recurrence.output()[:, 33], rtol=1e-4, atol=1e-5)


def test_state_norms_do_not_depend_on_where_the_sequence_is_cut(seen: list[Any]) -> None:
    for recurrence in seen:
        every = recurrence.state_norms([0, 1, 5, 17, 30, 39])
        assert every.shape == (2, 6, len(recurrence.A))
        few = recurrence.state_norms([0, 17, 39])
        assert torch.allclose(few, every[:, [0, 3, 5]], rtol=1e-4, atol=1e-6)
        if hasattr(recurrence, "value"):
            first = recurrence.key[:, 0].abs() * recurrence.value[:, 0].norm(dim=-1, keepdim=True)
            assert torch.allclose(every[:, 0], first.flatten(1), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module", params=["mamba3", "rwkv7"])
def audited(request: pytest.FixtureRequest) -> tuple[nn.Module, AuditResult]:
    """A model of each kind and its audit; RWKV-7 with decays that do not depend on the token."""
    torch.manual_seed(0)
    model = {"mamba3": mamba3_model, "rwkv7": rwkv_model}[request.param]().eval()
    with torch.no_grad():
        for layer in model.layers:
            if isinstance(layer, TimeMixing):
                layer.w0.fill_(-4.0)
                layer.w1.zero_()
    return model, audit(model, TOKENS.flatten(), train_length=20, length=40, precision=False)


def test_an_audit_and_the_monitor_read_all_layers(audited: tuple[Any, AuditResult]) -> None:
    model, result = audited
    count = len(model.layers)
    assert len(result.measures) == count
    assert result.not_audited == []
    assert result.degradation is not None
    assert all(own.replay.is_proof for own in result.measures)
    monitor = TrainingMonitor(model, every=1)
    monitor.after_step(0, TOKENS[:1])
    assert len(monitor.readings) == count
    assert all(math.isfinite(reading.log_state) for reading in monitor.readings)


def test_how_far_a_layer_remembers_and_what_is_said_of_its_states(
    audited: tuple[Any, AuditResult],
) -> None:
    """Of RWKV-7 not that every state decays: an erasure may enlarge one by 2 / sqrt(3)."""
    model, result = audited
    if not isinstance(model, RwkvModel):
        assert "Stable: every state decays. By construction: the rate is minus" in result.verdict
        return
    expected = math.exp(0.5) * (1 + math.exp(4.0))
    for own in result.measures:
        assert own.longest_horizon.tolist() == pytest.approx([expected] * WIDTH, rel=1e-3)
        assert own.spectral_abscissa == pytest.approx(-math.exp(-0.5))
    assert "Stable" not in result.verdict
    assert "Every rate decays. By construction: A is a bound below 0" in result.verdict
    assert "A state may still grow for some steps: RWKV-7 reads" in result.verdict


def test_the_most_that_one_erasure_enlarges_a_state() -> None:
    """By what the guide says: of I - eta kappa kappa^T with eta 0 or 1 in each channel."""
    kappa = torch.tensor([1.0, math.sqrt(2.0)], dtype=torch.float64) / math.sqrt(3.0)
    eta = torch.tensor([1.0, 0.0], dtype=torch.float64)
    worst = torch.linalg.matrix_norm(
        torch.eye(2, dtype=torch.float64) - torch.outer(eta * kappa, kappa), 2
    )
    assert float(worst) == pytest.approx(2 / math.sqrt(3), rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    kappa = nn.functional.normalize(torch.randn(3000, 6, generator=generator), dim=-1)
    eta = (torch.rand(3000, 6, generator=generator) * 4 - 1.5).clamp(0, 1)
    decay = torch.rand(3000, 6, generator=generator).clamp_min(math.exp(-math.exp(-0.5)))
    moved = torch.diag_embed(decay) - (eta * kappa).unsqueeze(-1) * kappa.unsqueeze(-2)
    assert float(torch.linalg.matrix_norm(moved, 2).max()) <= 2 / math.sqrt(3) + 1e-5


def test_rates_that_are_weights_can_be_edited_and_others_not() -> None:
    model = LanguageModel(Block(), Mamba3()).eval()
    editable, fixed = find_layers(model)
    wanted = editable.state_matrix() * 3
    edits = editable.adapter.edit_rates(editable.module, wanted)
    assert edits is not None
    changed = copy.deepcopy(model)
    keep(changed, {editable.full_name(name): value for name, value in edits.items()})
    assert torch.allclose(find_layers(changed)[0].state_matrix(), wanted, rtol=1e-5)
    assert fixed.adapter.edit_rates(fixed.module, fixed.state_matrix()) is None
    tokens = torch.randint(0, 13, (96,))
    mended = repair(
        model, tokens, train_length=12, target_length=24, method="decay-floor", search="shared"
    )
    assert list(mended.untouched) == ["layers.1"]
