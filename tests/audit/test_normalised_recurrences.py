"""RWKV-4 and the mLSTM: averages with weights that decay, read as they compute and proved."""

import copy
from typing import Any

import caches
import pytest
import torch
import torch.nn.functional as F
from watched import Build, proofs, recurrences

from keelback.audit import TrainingMonitor, audit, find_layers, watching
from keelback.audit._parameters import keep
from keelback.benchmarks.families import EVERY, NORMALISED
from keelback.benchmarks.family_support import row


@pytest.fixture(params=sorted(NORMALISED))
def normalised_model(request: pytest.FixtureRequest, tiny_model: Build) -> Any:
    return tiny_model(request.param)


def test_they_are_proved(normalised_model: Any, tokens: torch.Tensor) -> None:
    result = audit(normalised_model, tokens.flatten(), train_length=20, length=40)
    assert len(result.measures) == 2
    for own in result.measures:
        assert own.replay.is_proof
        assert own.replay.worst < 1e-5
    assert result.not_audited == []
    assert result.degradation is not None
    assert "Stable: every state decays. By construction" in result.verdict


def test_attention_weights_rebuild_the_output(normalised_model: Any, tokens: torch.Tensor) -> None:
    for recurrence in recurrences(normalised_model, tokens):
        width = recurrence.value.flatten(2).shape[-1] // recurrence.A.shape[0]
        for query in (0, 33):
            weights = recurrence.attention(query, [0, 3])
            for i, rate in enumerate((0, 3)):
                own = slice(rate * width, (rate + 1) * width)
                values = recurrence.value.flatten(2)[:, : query + 1, own]
                y = torch.einsum("bs,bsc->bc", weights[:, i], values)
                assert torch.allclose(y, recurrence.output()[:, query, own], atol=1e-5)


def test_rwkv_by_its_definition(tiny_model: Build, tokens: torch.Tensor) -> None:
    """As sums over all earlier tokens, in float64, without any care for overflow."""
    model = tiny_model("rwkv")
    layer: Any = find_layers(model)[0].module
    recurrence = recurrences(model, tokens)[0]
    key, value = recurrence.key.double(), recurrence.value.double()
    decay, bonus = layer.time_decay.double().exp(), layer.time_first.double()
    for t in (0, 1, 39):
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        weights = torch.exp(key[:, :t] - ages * decay)
        now = torch.exp(bonus + key[:, t])
        total = (weights * value[:, :t]).sum(1)
        expected = (total + now * value[:, t]) / (weights.sum(1) + now)
        assert torch.allclose(recurrence.output()[:, t].double(), expected, rtol=1e-5, atol=1e-6)
    norms = recurrence.state_norms([0, 38])
    assert torch.allclose(norms[:, 0], recurrence.value[:, 0].abs(), atol=1e-6)
    ages = torch.arange(38, -1, -1, dtype=torch.float64)[:, None]
    weights = torch.exp(key[:, :39] - ages * decay)
    expected = ((weights * value[:, :39]).sum(1) / weights.sum(1)).abs()
    assert torch.allclose(norms[:, 1].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_mlstm_by_its_definition(tiny_model: Build, tokens: torch.Tensor) -> None:
    """Memory, normaliser and output of the paper in float64, without its stabiliser."""
    recurrence = recurrences(tiny_model("xlstm"), tokens)[0]
    q, k, v, log_i, delta = (
        x.double()
        for x in (
            recurrence.query,
            recurrence.key,
            recurrence.value,
            recurrence.log_input,
            recurrence.delta,
        )
    )
    C = torch.zeros(*k.shape[:1], *k.shape[2:], v.shape[-1], dtype=torch.float64)
    n = torch.zeros_like(k[:, 0])
    for t in range(tokens.shape[1]):
        forget, write = torch.exp(-delta[:, t])[..., None], torch.exp(log_i[:, t])[..., None]
        n = forget * n + write * k[:, t]
        C = forget[..., None] * C + (write * k[:, t])[..., None] * v[:, t, :, None]
        weight = (q[:, t] * n).sum(-1).abs().clamp_min(1.0)
        expected = torch.einsum("bhk,bhkv->bhv", q[:, t], C) / weight[..., None]
        found = recurrence.output()[:, t].double()
        assert torch.allclose(found, expected.flatten(1), rtol=1e-4, atol=1e-6)
    (norms,) = recurrence.state_norms([39]).unbind(1)
    assert torch.allclose(norms.double(), C.flatten(2).norm(dim=-1) / n.norm(dim=-1), rtol=1e-4)


def test_large_weights_do_not_overflow() -> None:
    from keelback.audit._normalised import MatrixMemory, WeightedAverage

    x = torch.randn(1, 50, 4)
    average = WeightedAverage(300 * x, x, torch.zeros(4), -torch.ones(4, 1))
    assert torch.isfinite(average.output()).all()
    assert torch.isfinite(average.state_norms([0, 49])).all()
    heads = torch.randn(1, 50, 2, 4)
    memory = MatrixMemory(heads, heads, heads, 300 * x[..., :2], torch.rand(1, 50, 2), 1e-6)
    assert torch.isfinite(memory.output()).all()
    assert torch.isfinite(memory.attention(49, [0, 1])).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["single", "fused"])
def test_both_forms_of_the_mlstm(mode: str, bias: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

    torch.manual_seed(0)
    config = transformers.xLSTMConfig(
        hidden_size=32, num_hidden_layers=1, num_heads=4, weight_mode=mode, use_bias=bias
    )
    for dtype, length in ((torch.float32, 100), (torch.bfloat16, 50)):
        (found,) = proofs(xLSTMLayer(config).to(dtype), torch.randn(2, length, 32).to(dtype))
        assert found.is_proof, found.why_not


def test_rates_of_rwkv_can_be_edited(tiny_model: Build, tokens: torch.Tensor) -> None:
    model = copy.deepcopy(tiny_model("rwkv"))
    layer = find_layers(model)[0]
    wanted = layer.state_matrix() * 3
    edits = layer.adapter.edit_rates(layer.module, wanted)
    assert edits is not None
    keep(model, {layer.full_name(name): value for name, value in edits.items()})
    assert torch.allclose(layer.state_matrix(), wanted, rtol=1e-5)
    result = audit(model, tokens.flatten(), train_length=20, length=40)
    assert all(own.replay.is_proof for own in result.measures)


def test_another_decay_is_not_read(
    tiny_model: Build, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.rwkv import modeling_rwkv

    own = modeling_rwkv.rwkv_linear_attention
    monkeypatch.setattr(
        modeling_rwkv, "rwkv_linear_attention", lambda decay, *a, **k: own(decay + 0.05, *a, **k)
    )
    result = audit(tiny_model("rwkv"), tokens.flatten(), train_length=20, length=40)
    assert result.measures == []
    assert len(result.not_audited) == 2
    assert "Stable" not in result.verdict


@pytest.mark.parametrize("family", ["rwkv", "xlstm"])
def test_what_begins_with_an_empty_state_is_read(family: str, tokens: torch.Tensor) -> None:
    """Both pass states from layer to layer, of which RWKV's are not 0 when they are empty."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    name = {"rwkv": "Rwkv", "xlstm": "xLSTM"}[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=61, hidden_size=128, num_hidden_layers=2
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    expected = [r.output() for r in recurrences(model, tokens)]
    seen: list[torch.Tensor] = []
    with torch.no_grad(), watching(find_layers(model), lambda _, __, r: seen.append(r.output())):
        given = model(tokens[:, :30], use_cache=True)
        assert len(seen) == 2
        model(tokens[:, 30:], use_cache=True, **caches.kept(given))
    assert len(seen) == 2
    for own, whole in zip(seen, expected, strict=True):
        assert torch.allclose(own, whole[:, :30], atol=1e-5)


def test_rwkv_in_training_keeps_its_weights(tokens: torch.Tensor) -> None:
    """In evaluation it divides weights of later layers; nobody may store them divided."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.RwkvConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=3, rescale_every=1
    )
    model = transformers.RwkvForCausalLM(config).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    monitor = TrainingMonitor(model, every=1)
    monitor.after_step(0, tokens)
    assert len(monitor.readings) == 3
    audit(model, tokens.flatten(), train_length=20, length=40, precision=False)
    assert model.training
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_fixed_steps_have_no_gate(tiny_model: Build, tokens: torch.Tensor) -> None:
    for family in ("rwkv", "minimax"):
        result = audit(tiny_model(family), tokens.flatten(), train_length=20, length=40)
        assert "The token alone explains" not in " ".join(f.statement for f in result.findings)
        assert result.gates["opening"].abs().max() == 0.0
        assert result.to_json()["layers"][0]["gate"]["selectivity"] is None


def test_rows_of_the_table_of_families() -> None:
    average, memory, delayed = row("rwkv"), row("xlstm"), row("zaya")
    assert average["repair"] == "2 of 42 tensors differ"
    assert average["undo"] == "to the bit"
    assert memory["repair"].endswith("no weight holds its rates")
    assert delayed["audit"].startswith("no state-space layer in ZayaForCausalLM")
    for found in (average, memory):
        assert found["audit"] == "2 of 2 layers"
        assert found["replay"] < 1e-4
        assert found["monitor"] == "6 readings of 2 layers"


def test_every_type_with_a_recurrent_state_is_in_the_table(tiny_model: Build) -> None:
    """Those whose code in transformers speaks of a state that is carried from token to token."""
    from importlib.util import find_spec
    from pathlib import Path

    tried = {
        type(part).__module__.removeprefix("transformers.models.").partition(".")[0]
        for family in EVERY
        for part in tiny_model(family).modules()
    }
    spec = find_spec("transformers.models")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (folder,) = map(Path, spec.submodule_search_locations)
    words = (
        *("recurrent_state", "ssm_state", "selective_scan", "delta_rule", "rg_lru"),
        *("mlstm", "rwkv_linear", "slope_rate"),
    )
    types = {
        file.parent.name
        for file in folder.glob("*/modeling_*.py")
        if any(word in file.read_text(encoding="utf-8") for word in words)
    }
    assert len(types) >= 23
    assert types - tried == set()


def test_the_forget_gate_says_how_long_it_remembers(
    tiny_model: Build, tokens: torch.Tensor
) -> None:
    model: Any = copy.deepcopy(tiny_model("xlstm"))
    with torch.no_grad():
        for layer in find_layers(model):
            gate: Any = layer.module.fgate_preact
            gate.weight.zero_()
            gate.bias.fill_(4.0)
    result = audit(model, tokens.flatten(), train_length=20, length=40)
    capped = 15 * torch.tanh(torch.tensor(4.0 / 15))
    expected = 1 / float(F.softplus(-capped))
    for own in result.measures:
        assert own.longest_horizon.tolist() == pytest.approx([expected] * 4, rel=1e-3)
