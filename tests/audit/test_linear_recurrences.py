"""Lightning attention and the RG-LRU: read as they compute, proved, edited where they can be."""

import copy
from typing import Any

import caches
import pytest
import torch
from watched import Build, recurrences

from keelback.audit import audit, find_layers, watching
from keelback.audit._parameters import keep
from keelback.benchmarks.families import LINEAR
from keelback.benchmarks.family_support import row


@pytest.fixture(params=sorted(LINEAR))
def linear_model(request: pytest.FixtureRequest, tiny_model: Build) -> Any:
    return tiny_model(request.param)


def test_they_are_proved(linear_model: Any, tokens: torch.Tensor) -> None:
    result = audit(linear_model, tokens.flatten(), train_length=20, length=40)
    assert len(result.measures) == 2
    for own in result.measures:
        assert own.replay.is_proof
        assert own.replay.difference < 1e-5
    assert not [m for m in result.not_audited if "Mlp" in m.what]
    assert "minus an exponential" not in result.verdict


def test_padding_is_as_the_layer_has_it(linear_model: Any, tokens: torch.Tensor) -> None:
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    proved: list[float] = []
    with (
        torch.no_grad(),
        watching(
            find_layers(linear_model),
            lambda *_: None,
            lambda _, replay: proved.append(replay.worst if replay.is_proof else 1.0),
        ),
    ):
        linear_model(tokens, use_cache=False, attention_mask=mask)
    assert proved == [pytest.approx(0.0, abs=1e-4)] * 2


def test_what_goes_on_from_a_state_is_not_read(linear_model: Any, tokens: torch.Tensor) -> None:
    """MiniMax's cache has states under a name of its own; RecurrentGemma's layers keep theirs."""
    from transformers import DynamicCache

    keeps_its_own = linear_model.config.model_type == "recurrent_gemma"
    cache = DynamicCache(config=linear_model.config)
    past = caches.given(linear_model, cache) if keeps_its_own else {}
    expected = [r.output() for r in recurrences(linear_model, tokens)]
    seen: list[torch.Tensor] = []
    with (
        torch.no_grad(),
        watching(find_layers(linear_model), lambda _, __, r: seen.append(r.output())),
    ):
        given = linear_model(tokens[:, :30], use_cache=True, **past)
        assert len(seen) == 2
        past = past or caches.kept(given)
        linear_model(tokens[:, 30:31], use_cache=True, **past)
        assert len(seen) == 2
        linear_model(tokens[:, :30], use_cache=False)
    assert len(seen) == 4
    for own, whole in zip(seen, expected * 2, strict=True):
        assert torch.allclose(own, whole[:, :30], atol=1e-5)


def test_attention_weights_rebuild_the_output(linear_model: Any, tokens: torch.Tensor) -> None:
    for recurrence in recurrences(linear_model, tokens):
        weights = recurrence.attention(33, [0, 3])
        width = recurrence.u.shape[-1] // recurrence.A.shape[0]
        for i, rate in enumerate((0, 3)):
            own = slice(rate * width, (rate + 1) * width)
            y = torch.einsum("bs,bsc->bc", weights[:, i], recurrence.u[:, :34, own])
            assert torch.allclose(y, recurrence.output()[:, 33, own], atol=1e-5)


def test_lightning_attention_by_its_definition(tiny_model: Build, tokens: torch.Tensor) -> None:
    """Step by step in float64, from the layer's own projections."""
    model: Any = tiny_model("minimax")
    layer = find_layers(model)[0].module
    given: list[torch.Tensor] = []
    handle = layer.qkv_proj.register_forward_hook(lambda m, args, out: given.append(out))
    recurrence = recurrences(model, tokens)[0]
    handle.remove()
    q, k, v = layer.act_fn(given[0]).double().unflatten(-1, (4, 24)).split(8, dim=-1)
    state = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    outputs = []
    for t in range(tokens.shape[1]):
        state = state * torch.exp(-layer.slope_rate.double())
        state = state + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state).flatten(1))
    expected = torch.stack(outputs, 1)
    assert torch.allclose(recurrence.output().double(), expected, rtol=1e-4, atol=1e-5)


def test_the_unit_by_its_own_output(tiny_model: Build, tokens: torch.Tensor) -> None:
    model: Any = tiny_model("recurrent-gemma")
    unit = find_layers(model)[0].module.rg_lru
    given: list[torch.Tensor] = []
    handle = unit.register_forward_hook(lambda m, args, out: given.append(out))
    recurrence = recurrences(model, tokens)[0]
    handle.remove()
    assert torch.allclose(recurrence.output(), given[0], atol=1e-5)


def test_rates_of_the_unit_can_be_edited(tiny_model: Build, tokens: torch.Tensor) -> None:
    model: Any = copy.deepcopy(tiny_model("recurrent-gemma"))
    layer = find_layers(model)[0]
    wanted = layer.state_matrix() * 3
    edits = layer.adapter.edit_rates(layer.module, wanted)
    assert edits is not None
    keep(model, {layer.full_name(name): value for name, value in edits.items()})
    assert torch.allclose(layer.state_matrix(), wanted, rtol=1e-5)
    result = audit(model, tokens.flatten(), train_length=20, length=40)
    assert all(own.replay.is_proof for own in result.measures)


def test_fixed_slopes_cannot(tiny_model: Build) -> None:
    layer = find_layers(tiny_model("minimax"))[0]
    assert layer.adapter.edit_rates(layer.module, layer.state_matrix()) is None


@pytest.mark.parametrize("family", ["mamba", "minimax"])
def test_a_row_of_the_table_of_families(family: str) -> None:
    found = row(family)
    assert found["audit"] == "2 of 2 layers"
    assert found["replay"] < 1e-4
    assert found["monitor"] == "6 readings of 2 layers"
    if family == "mamba":
        assert found["repair"].startswith("2 of ")
        assert found["undo"] == "to the bit"
    else:
        assert found["repair"] == (
            "how the layers of MiniMaxForCausalLM forget cannot be edited: no weight holds "
            "its rates"
        )
