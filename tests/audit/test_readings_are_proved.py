"""What an adapter reads is run again and compared with what the layer hands on."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from keelback.audit import AuditResult, audit, find_layers, watching
from keelback.audit._replay import TOLERANCE, Replay
from keelback.audit.adapters import ADAPTERS, MambaAdapter
from keelback.benchmarks.lookalike_layers import (
    INNER,
    LOOKALIKES,
    SS2D,
    BothWays,
    ImageModel,
    LanguageModel,
    Mamba,
    ThereAndBack,
    Vim,
)
from keelback.errors import InputError

TOKENS = torch.randint(0, 13, (260,), generator=torch.Generator().manual_seed(1))


def language_model(*layers: nn.Module) -> LanguageModel:
    return LanguageModel(*layers).eval()


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def audited(model: nn.Module, **options: Any) -> AuditResult:
    return audit(model, TOKENS, train_length=100, precision=False, **options)


def test_every_family_is_proved(model: nn.Module, family: str) -> None:
    tokens = torch.randint(3, 61, (130,), generator=torch.Generator().manual_seed(2))
    found = audit(model, tokens, train_length=130, precision=False).to_json()
    assert found["coverage"]["layers_read"] == found["coverage"]["layers_found"]
    assert found["coverage"]["share_of_their_parameters"] == 1.0
    for layer in found["layers"]:
        assert 0 < layer["replay"]["relative_difference"] < TOLERANCE
        assert layer["replay"]["worst_channel"] < TOLERANCE
    assert "state-space layers." in found["verdict"]


@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_a_lookalike_is_not_read(lookalike: type[Mamba]) -> None:
    result = audited(language_model(Mamba(), lookalike()))
    (missed,) = result.not_audited
    assert (missed.what, missed.kind) == ("layers.1", lookalike.__name__)
    assert [own.layer.name for own in result.measures] == ["layers.0"]
    (coverage,) = [f for f in result.findings if f.measure.startswith("share of the parameters")]
    assert coverage.severity == "warning"
    assert "1 of 2 state-space layers" in coverage.statement
    assert coverage.statement in result.verdict
    assert missed.reason in result.verdict
    assert "Stable: every state that was read decays." in result.verdict
    found = result.to_json()
    assert found["not_audited"][0]["reason"] == missed.reason
    assert found["coverage"]["layers_read"] == 1
    assert 0.3 < found["coverage"]["share_of_their_parameters"] < 0.7


def test_a_model_of_lookalikes_alone_gets_no_word_of_stability() -> None:
    causal = [kind for kind in LOOKALIKES if kind is not ThereAndBack]
    result = audited(language_model(*(kind() for kind in causal)))
    assert result.measures == []
    assert len(result.not_audited) == len(causal)
    assert "Stable" not in result.verdict
    assert "No state-space layer of this model could be read" in result.verdict
    assert result.findings[0].severity == "problem"
    assert result.losses
    assert result.to_json()["coverage"]["replay_difference"] is None


def test_the_difference_is_what_it_says() -> None:
    """By how much the state's part of what is handed on is off, found by hand."""
    layer = Mamba()
    x = torch.randn(2, 50, 16)
    (found,) = replays(layer, x)
    assert found.difference < 1e-5

    class Stepped(MambaAdapter):
        def read(self, module: Any, call: Any) -> Any:
            recurrence = super().read(module, call)
            recurrence.delta = 1.1 * recurrence.delta
            return recurrence

    (found,) = replays(layer, x, Stepped())
    assert found.why_not is not None
    with torch.no_grad():
        right, wrong, silent = (handed(layer, x, factor) for factor in (1.0, 1.1, 0.0))
    expected = float((right - wrong).norm() / (wrong - silent).norm())
    assert found.difference == pytest.approx(expected, rel=1e-4)
    difference, size, share = (x.norm(dim=(0, 1)) for x in (right - wrong, wrong, wrong - silent))
    by_channel = (difference - 1e-5 * size) / share
    assert found.worst == pytest.approx(float(by_channel.max()), rel=1e-3)


def handed(layer: Mamba, x: torch.Tensor, factor: float) -> torch.Tensor:
    """What the layer hands to `out_proj` with step sizes `factor` times larger; 0 for no state."""
    step = layer.step
    layer.step = lambda low: factor * step(low)  # type: ignore[method-assign]
    inputs: list[torch.Tensor] = []
    handle = layer.out_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    layer(x)
    handle.remove()
    layer.step = step  # type: ignore[method-assign]
    return inputs[0]


def replays(layer: nn.Module, x: torch.Tensor, *adapters: Any) -> list[Replay]:
    found: list[Replay] = []
    with watching(
        find_layers(layer, adapters or None),
        lambda *_: None,
        lambda _, replay: found.append(replay),
    ):
        layer(x)
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_lookalikes_in_other_precisions(dtype: torch.dtype) -> None:
    """In half precision, too, where rounding would hide a faint state."""
    from keelback.benchmarks.lookalike_layers import FlooredStep, SteppedTwice

    x = torch.randn(1, 200, 16).to(dtype)
    (sound,) = replays(Mamba().to(dtype), x)
    assert sound.is_proof
    for kind in (FlooredStep, SteppedTwice):
        (found,) = replays(kind().to(dtype), x)
        assert found.why_not is not None


@pytest.mark.parametrize("own_parts", [True, False])
@pytest.mark.parametrize("halves", [True, False])
def test_vision_mamba_is_read_in_both_directions(own_parts: bool, halves: bool) -> None:
    vim = Vim(own_parts, backward_rate=1.2e-4, halves=halves)
    result = audited(language_model(vim))
    assert result.not_audited == []
    forward, backward = result.measures
    assert forward.layer.name == "layers.0[forward]"
    assert backward.layer.name == "layers.0[backward]"
    assert forward.spectral_abscissa == pytest.approx(-1.0)
    assert backward.spectral_abscissa == pytest.approx(-1.2e-4)
    assert backward.replay.worst < TOLERANCE
    assert "at most -0.00012 (layers.0[backward])" in result.verdict
    assert result.losses == []
    assert "depends on the tokens after it" in str(result.why_no_losses)


def test_the_backward_direction_is_in_the_order_of_its_scan() -> None:
    vim, x = Vim(), torch.randn(1, 30, 16)
    seen: dict[str, Any] = {}
    with torch.no_grad(), watching(find_layers(vim), lambda own, _, r: seen.update({own.name: r})):
        vim(x)
    backward = seen["[backward]"]
    with torch.no_grad():
        expected = vim.backward_scan(vim.in_proj(x)[..., :INNER].flip(1))
    assert torch.allclose(backward.output(), expected, atol=1e-5)
    positions = torch.arange(30)[None]
    assert torch.equal(backward.in_order(positions), positions.flip(1))
    assert torch.equal(backward.out_of_order(backward.in_order(x)), x)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("shape", [(8, 8), (4, 10)])
def test_an_image_is_read_in_four_directions(gated: bool, shape: tuple[int, int]) -> None:
    model = ImageModel(SS2D(gated), SS2D(gated)).eval()
    image = torch.randn(3, 3, 2 * shape[0], 2 * shape[1])
    for inputs in (image, {"image": image, "bias": torch.ones(5)}):
        result = audit(model, inputs, precision=False)
        assert result.not_audited == []
        assert len(result.measures) == 8
        names = [own.layer.name for own in result.measures[:4]]
        directions = ("rows", "columns", "rows reversed", "columns reversed")
        assert names == [f"layers.0[{direction}]" for direction in directions]
        for k, own in enumerate(result.measures[:4]):
            rates = -torch.exp(model.layers[0].A_logs[k * INNER : (k + 1) * INNER])
            assert own.spectral_abscissa == pytest.approx(float(rates.max()))
        assert result.span.length == shape[0] * shape[1]
        assert result.sequences == 3
        assert result.losses == []
        assert "not given tokens" in str(result.why_no_losses)
        assert max(own.replay.worst for own in result.measures) < TOLERANCE


def test_one_wrong_direction_is_enough() -> None:
    model = ImageModel(SS2D()).eval()
    one = model.layers[0].one
    model.layers[0].one = lambda u, k: one(u, k) * (1.01 if k == 3 else 1.0)  # type: ignore
    result = audit(model, torch.randn(1, 3, 16, 16), precision=False)
    assert result.measures == []
    assert len(result.not_audited) == 4


def test_a_wrapper_that_runs_mamba_both_ways() -> None:
    """As in Caduceus: each direction is a layer by itself."""
    result = audited(language_model(BothWays(), BothWays()))
    names = [own.layer.name for own in result.measures]
    assert names == [f"layers.{i}.mamba_{way}" for i in range(2) for way in ("fwd", "rev")]
    assert result.not_audited == []
    assert result.losses == []


class Rearranged(nn.Module):
    """Runs Mamba on the tokens in another order, and puts them back."""

    def __init__(self, order: Any) -> None:
        super().__init__()
        self.mamba, self.order = Mamba(), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = self.order(x.shape[1])
        y = torch.empty_like(x)
        y[:, order] = self.mamba(x[:, order])
        return y


def test_a_layer_on_a_reversed_text_knows_its_tokens() -> None:
    """Told by where a replaced token comes, else gates are explained by tokens elsewhere."""
    both = BothWays()
    with torch.no_grad():  # so that the step is a function of the token alone
        both.mamba_fwd.conv1d.weight[..., :-1] = 0.0
    both.mamba_rev.load_state_dict(both.mamba_fwd.state_dict())
    alone = Rearranged(lambda length: torch.arange(length).flip(0))
    alone.mamba.load_state_dict(both.mamba_fwd.state_dict())
    forward, reverse = audited(language_model(both)).measures
    first, second = audited(language_model(alone, Mamba())).measures
    shares = [own.statistics.gates.selectivity() for own in (forward, reverse, first)]
    assert shares == pytest.approx([1.0, 1.0, 1.0])
    assert math.isfinite(float(forward.state_growth.median()))
    for own in (reverse, first):  # in scan order, other tokens come beyond the training length
        assert math.isnan(float(own.state_growth.median()))
        assert math.isnan(float(own.step_shift.median()))
    assert math.isfinite(float(second.state_growth.median()))


def test_a_layer_on_tokens_in_no_known_order_has_no_gates() -> None:
    model = language_model(
        Rearranged(lambda length: torch.arange(length).roll(length // 3)), Mamba()
    )
    odd, second = audited(model).measures
    assert odd.replay.is_proof
    assert not odd.statistics.gates.count.any()
    assert second.statistics.gates.count.sum() == 260


def test_rates_that_torch_computes_from_others() -> None:
    class Halved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - math.log(2)

    model = language_model(Mamba())
    nn.utils.parametrize.register_parametrization(model.layers[0], "A_log", Halved())
    nn.utils.parametrizations.weight_norm(model.layers[0].in_proj)
    result = audited(model)
    assert result.not_audited == []
    assert result.measures[0].spectral_abscissa == pytest.approx(-0.5)


@pytest.mark.parametrize("shape", ["tuple", "mapping", "nested"])
def test_logits_are_found_in_what_a_model_gives(shape: str) -> None:
    inner = language_model(Mamba())

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: torch.Tensor) -> Any:
            logits, loss = self.inner(tokens), torch.tensor(1.0)
            if shape == "tuple":
                return loss, logits, None
            if shape == "mapping":
                return {"loss": loss, "logits": logits}
            return {"loss": loss, "more": [logits]}

    found, expected = audited(Around().eval()), audited(inner)
    assert [row.loss for row in found.losses] == [row.loss for row in expected.losses]


def test_series_with_a_loss_for_each_position() -> None:
    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.mamba, self.out = nn.Linear(3, 16), Mamba(), nn.Linear(16, 3)

        def forward(self, series: torch.Tensor) -> torch.Tensor:
            return self.out(self.mamba(self.into(series)))

    series = torch.randn(4, 120, 3)
    model = Forecaster().eval()
    result = audit(
        model,
        {"series": series},
        train_length=60,
        position_loss=lambda output: output.square().mean(-1),
    )
    assert result.span.length == 120
    assert result.span.train_length == 60
    with torch.no_grad():
        expected = model(series).square().mean(-1)
    mean = sum(row.loss * row.tokens for row in result.losses) / 480
    assert mean == pytest.approx(float(expected.mean()), rel=1e-5)
    assert {effect.precision for effect in result.precision} == {"bfloat16", "float16"}
    assert result.gates.is_empty()


def test_an_adapter_that_proves_nothing_is_said_to() -> None:
    class Silent(MambaAdapter):
        kind = "silent"
        parts = None

        def hand_on(self, module: Any, call: Any, outputs: Any) -> None:
            return None

    ADAPTERS.insert(0, Silent())
    try:
        result = audited(language_model(Mamba()))
    finally:
        ADAPTERS.pop(0)
    assert len(result.measures) == 1
    assert math.isnan(result.measures[0].replay.difference)
    assert "The reading of 1 of 1 layers is not proved" in result.verdict
    assert result.to_json()["layers"][0]["replay"]["relative_difference"] is None


def test_what_cannot_be_run_on() -> None:
    with pytest.raises(InputError, match="first axis is the batch"):
        audit(ImageModel(SS2D()), {"image": "a picture"})
    with pytest.raises(InputError, match="give one of the two"):
        audit(ImageModel(SS2D()))


def test_the_page_says_what_was_not_read() -> None:
    from keelback.benchmarks.lookalike_layers import Euler
    from keelback.report.audit import audit_outcome

    partly = audit_outcome(audited(language_model(Mamba(), Euler())))
    tables = {table.name: table for table in partly.tables}
    (row,) = tables["not_audited"].rows
    assert row["what"] == "layers.1"
    assert "does not give the layer's own result" in str(row["reason"])
    (layer,) = tables["layers"].rows
    assert 0 <= float(str(layer["replay_relative_difference"])) < TOLERANCE
    nothing = audit_outcome(audited(language_model(Euler())))
    assert {table.name for table in nothing.tables} >= {"not_audited", "precision"}
    assert [figure.name for figure in nothing.figures] == ["loss_by_position"]
    image = audit_outcome(audit(ImageModel(SS2D()), torch.randn(1, 3, 16, 16)))
    assert "gates" not in {table.name for table in image.tables}
    evidence = " ".join(claim.evidence for claim in partly.claims)
    assert "threshold" in evidence
