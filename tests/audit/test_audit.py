"""The audit as a whole: what it says of models whose faults are known, and that it harms none."""

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import keelback.audit
from keelback.audit import AuditResult, audit, find_layers, precision_effects
from keelback.audit._losses import LanguageModel
from keelback.errors import InputError
from keelback.models import SelectiveSSM, SelectiveSSMConfig

VOCAB = 61


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randint(3, VOCAB, (260,), generator=torch.Generator().manual_seed(2))


def statements(result: AuditResult, severity: str) -> str:
    return " ".join(f.statement for f in result.findings if f.severity == severity)


def test_every_family_is_audited_and_left_as_it_was(model: nn.Module, text: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = audit(model, text, train_length=32, length=130)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert found["verdict"] == result.verdict
    assert found["sequences"] == 2
    assert [layer["name"] for layer in found["layers"]] == [x.name for x in find_layers(model)]
    for layer in found["layers"]:
        assert layer["spectral_abscissa"] < 0
        delta, horizon = layer["delta"], layer["horizon"]
        assert 0 <= delta["min"] <= delta["p01"] <= delta["median"] <= delta["p99"] <= delta["max"]
        assert delta["median"] > 0
        assert 0 < horizon["median"] <= horizon["p99"] <= horizon["max"]
    positions = [(row["start"], row["stop"]) for row in found["loss_by_position"]]
    assert positions[0][0] == 1
    assert positions[-1][1] == 130
    assert all(one[1] == other[0] for one, other in itertools.pairwise(positions))
    assert "Stable" in statements(result, "good")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(
    tiny_model: Callable[[str], Any], text: torch.Tensor, half: torch.dtype
) -> None:
    for family in ("mamba", "mamba2", "qwen3-next", "kimi-linear"):
        full = tiny_model(family)
        model = copy.deepcopy(full).to(half)
        found = audit(model, text, train_length=100).to_json()["layers"]
        expected = audit(full, text, train_length=100).to_json()["layers"]
        assert next(model.parameters()).dtype == half
        for one, other in zip(found, expected, strict=True):
            assert one["delta"]["median"] == pytest.approx(other["delta"]["median"], rel=0.05)
            assert one["horizon"]["median"] == pytest.approx(other["horizon"]["median"], rel=0.05)


def test_losses_are_those_of_the_models_own_logits(model: nn.Module, text: torch.Tensor) -> None:
    tokens = text.view(2, 130)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[:, :-1].float()
        expected = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        language_model = LanguageModel(model)
        assert language_model.predicts_tokens(tokens)
        losses = language_model.token_losses(tokens)
    assert language_model._head_scale is not None
    assert torch.allclose(losses, expected, atol=1e-4)


def test_the_module_can_be_called(tiny_model: Callable[[str], Any], text: torch.Tensor) -> None:
    result = keelback.audit(tiny_model("mamba"), text)
    assert result.train_length_source == "assumed"
    assert "not tested" in statements(result, "note")


class Drifting(nn.Module):
    """Predicts the next token of a cycle, less and less surely once its state passes a bound.

    The state counts tokens since the start (A = 0, so nothing is forgotten): a caricature of a
    model that was trained on short sequences.
    """

    def __init__(self, bound: int, classes: int = 16) -> None:
        super().__init__()
        self.bound, self.classes = bound, classes
        self.ssm = SelectiveSSM(1, 1)
        with torch.no_grad():
            self.ssm.state_matrix.A.zero_()
            for weight in (self.ssm.W_B, self.ssm.W_C):
                weight.fill_(1.0)
            self.ssm.q.zero_()
            self.ssm.p.fill_(math.log(math.e - 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count = self.ssm(torch.ones(*tokens.shape, 1))
        excess = (count / self.bound - 1).clamp_min(0.0)
        following = F.one_hot((tokens + 1) % self.classes, self.classes).float()
        return following * 4.0 / (1 + excess)


def test_a_model_that_drifts_is_found_out(tmp_path: Path) -> None:
    tokens = torch.arange(3 * 1024) % 16
    result = audit(Drifting(bound=200), tokens, train_length=128, length=1024)
    assert result.degradation is not None
    assert result.degradation.degrades
    assert result.degradation.onset == pytest.approx(200, rel=0.3)
    assert "Does not hold" in statements(result, "problem")
    assert "Unstable" in statements(result, "problem")
    assert "keelback repair" in result.verdict
    (layer,) = result.measures
    assert layer.growth_exponent == pytest.approx(1.0, abs=0.02)
    assert math.isinf(float(layer.longest_horizon[0]))
    assert result.to_json()["layers"][0]["horizon"]["median"] is None
    assert "leave the range" in statements(result, "warning")

    result.write(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert stored == result.to_json()
    frame = pl.read_parquet(tmp_path / "out" / "layers.parquet")
    assert frame["delta_median"][0] == stored["layers"][0]["delta"]["median"]
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()).count(".parquet") == 8


def test_a_model_that_holds_is_said_to_hold() -> None:
    tokens = torch.arange(2048) % 16
    result = audit(Drifting(bound=10**9), tokens, train_length=128, length=1024)
    assert "Holds to 1024 tokens, 8 times" in statements(result, "good")


def test_an_unstable_classifier_has_no_losses_but_a_verdict() -> None:
    model = SelectiveSSMConfig(vocab_size=7, spectral_abscissa=0.5).build()
    result = audit(model, torch.randint(0, 7, (4, 300)), train_length=100)
    assert result.losses == []
    assert result.degradation is None
    assert result.loss_by_position.is_empty()
    assert "Unstable" in statements(result, "problem")
    assert any("does not predict the next token" in f.evidence for f in result.findings)
    assert result.to_json()["layers"][0]["spectral_abscissa"] == pytest.approx(0.5)


def test_states_that_overflow_are_dated() -> None:
    torch.manual_seed(0)
    model = SelectiveSSMConfig(vocab_size=7, spectral_abscissa=30.0).build()
    result = audit(model, torch.randint(0, 7, (1, 300)), train_length=100, precision=False)
    assert "States overflow" in statements(result, "problem")
    position = result.to_json()["layers"][0]["state"]["overflow_position"]
    assert 0 < position < 100


def test_features_are_compared_with_the_gate() -> None:
    model = SelectiveSSMConfig(vocab_size=50, d_model=4).build()
    directions = torch.stack([model.ssm.q.detach(), torch.tensor([1.0, 0, 0, 0])])
    result = audit(model, torch.randint(0, 50, (2, 200)), features=directions, train_length=200)
    along_q, _ = result.to_json()["layers"][0]["gate"]["alignment"]
    assert along_q > 0.9


def test_tokens_are_named_and_typed(tiny_model: Callable[[str], Any], text: torch.Tensor) -> None:
    names = {3: " keel", 4: "7", 5: ",", 6: "\n", 7: "<b>"}
    result = audit(tiny_model("mamba"), text, label=lambda t: names.get(t, "ing"))
    types = dict(zip(result.gates["token"], result.gates["type"], strict=True))
    assert types == {
        " keel": "word start",
        "7": "digits",
        ",": "punctuation",
        "\n": "line break",
        "<b>": "other",
        "ing": "letters",
    }
    assert set(result.gate_types["type"]) == set(types.values())
    assert int(result.gates["count"].sum()) == len(text)
    weighted = (result.gates["opening"] * result.gates["count"]).sum()
    assert abs(weighted / len(text)) < 1e-6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 261}, "the text has 260 tokens and a length of 261"),
        ({"length": 1}, "a length of 1"),
        ({"train_length": 0}, "at least 1"),
        ({"tokens": [5]}, "at least 2 tokens"),
        ({"tokens": [5, 999]}, "token 1 is 999; this model's ids are from 0 to 60"),
        ({"tokens": torch.zeros(2, 3, 4)}, "cannot be cut"),
    ],
)
def test_wrong_arguments(
    tiny_model: Callable[[str], Any], text: torch.Tensor, change: dict[str, Any], words: str
) -> None:
    arguments = {"tokens": text} | change
    with pytest.raises(InputError, match=words):
        audit(tiny_model("mamba"), **arguments)


class Short(nn.Module):
    """Has learned positions for eight tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.positions = inner, nn.Embedding(8, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.inner(tokens).logits + self.positions(torch.arange(tokens.shape[1]))


def test_a_model_that_fails_on_the_text_is_named(
    tiny_model: Callable[[str], Any], text: torch.Tensor
) -> None:
    model = Short(tiny_model("mamba")).eval()
    with pytest.raises(InputError, match="Short cannot be run as it is: IndexError: index out of"):
        audit(model, text, train_length=20, length=40)
    assert audit(model, text, train_length=4, length=8).layers.height == 2


def test_what_watches_a_model_fails_by_its_own_name(
    tiny_model: Callable[[str], Any], text: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *arguments: Any) -> None:
        raise KeyError("a fault of the audit")

    monkeypatch.setattr("keelback.audit._collect.Collector.receive", broken)
    with pytest.raises(KeyError, match="a fault of the audit"):
        audit(tiny_model("mamba"), text, train_length=20, length=40)


def test_weights_that_are_not_finite_are_named(text: torch.Tensor) -> None:
    model = SelectiveSSMConfig(vocab_size=VOCAB).build()
    with torch.no_grad():
        model.ssm.W_B[1, 2] = float("inf")
    with pytest.raises(InputError, match=r"1 of 16 entries of ssm\.W_B"):
        audit(model, text)


def test_rounding_is_that_of_the_type_and_is_taken_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCAB, 8), nn.ModuleList([nn.Linear(8, VOCAB)])[0])
    before = [p.clone() for p in model.parameters()]
    tokens = torch.arange(20)[None]
    bfloat16, float16 = precision_effects(model, tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    exact = model(tokens)
    rounded = model[0].weight.bfloat16()[tokens].float() @ model[1].weight.bfloat16().float().T
    rounded = (rounded + model[1].bias.bfloat16().float()).bfloat16().float()
    change = float((rounded - exact).abs().max() / exact.abs().max())
    assert bfloat16.largest_change == pytest.approx(change, rel=1e-4)
    assert float16.largest_change < bfloat16.largest_change
    assert float16.headroom == pytest.approx(65504 / float(exact.abs().max()), rel=0.5)
    assert bfloat16.overflow_module is None


def test_overflow_in_half_precision_is_located(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("mamba")
    weight = model.backbone.embeddings.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[7] = 1e5
    try:
        tokens = torch.tensor([[5, 6, 7, 8]])
        bfloat16, float16 = precision_effects(model, tokens)
        assert float16.overflow_module == "backbone.embeddings"
        assert float16.overflow_position == 2
        assert float16.headroom < 1
        assert bfloat16.overflow_module is None
        result = audit(model, tokens)
        assert "Overflows in float16" in statements(result, "problem")
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.mark.parametrize(
    ("apart", "statement"),
    [(1, "Unstable: some states grow"), (5, "Some steps enlarge states")],
)
def test_steps_below_zero_are_no_decay(
    tiny_model: Callable[[str], Any], tokens: torch.Tensor, apart: int, statement: str
) -> None:
    """A forget gate that lets states grow at some positions, in layers made to decay."""
    model = copy.deepcopy(tiny_model("kimi-linear"))
    for layer in find_layers(model):
        gate: Any = layer.module.forget_gate
        gate.register_forward_hook(
            lambda _, __, logs: logs.index_fill(1, torch.arange(0, logs.shape[1], apart), 1e-3)
        )
    result = audit(model, tokens[0], train_length=20, length=40)
    assert not [missed for missed in result.not_audited if "." in missed.what]
    assert "Stable" not in result.verdict
    (found,) = (own for own in result.findings if own.measure == "least step size")
    assert found.statement.startswith(statement)
    assert found.value is not None
    assert found.value < 0
