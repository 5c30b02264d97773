"""Hugging Face's Mamba with keelback's scan in the place of its own loop."""

import contextlib
import importlib

import pytest
import torch

from keelback.errors import InputError
from keelback.integrations import use_in_transformers
from keelback.integrations._recompute import is_ours

transformers = pytest.importorskip("transformers")


def test_the_logits_are_those_of_their_own_loop_and_the_change_is_undone() -> None:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(50, (2, 40))
    theirs = model(tokens).logits
    with use_in_transformers():
        ours = model(tokens).logits
    assert 0 < float((theirs - ours).detach().abs().max()) < 1e-4
    assert torch.equal(model(tokens).logits, theirs)


def test_what_a_call_within_another_replaced_is_the_others_again() -> None:
    module = transformers.models.mamba.modeling_mamba
    with use_in_transformers():
        outer = module.mamba_selective_scan
        with use_in_transformers():
            assert module.mamba_selective_scan is not outer
        assert module.mamba_selective_scan is outer
    assert not is_ours(module.mamba_selective_scan)


def test_the_gradients_are_those_of_their_own_loop() -> None:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=8
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config)
    tokens = torch.randint(50, (2, 20))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    theirs = gradients()
    with use_in_transformers():
        ours = gradients()
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("ours", [False, True])
def test_a_step_never_loses_a_gradient_in_silence(family: str, ours: bool) -> None:
    """A step overwrites the state of the cache, which their backward pass and ours refuse."""
    sizes = {"head_dim": 8, "num_heads": 8} if family == "mamba2" else {}
    prefix = {"mamba": "Mamba", "mamba2": "Mamba2"}[family]
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=8, **sizes
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    tokens = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(0))
    with contextlib.ExitStack() as stack:
        if ours:
            stack.enter_context(use_in_transformers())
        cache = model(tokens, use_cache=True).cache_params
        logits = model(tokens[:, :1], cache_params=cache, use_cache=True).logits
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            logits.sum().backward()


def mamba2_operands(batch: int, length: int, groups: int) -> dict[str, torch.Tensor]:
    heads, head_dim, state = 4, 6, 8
    shapes = {
        "hidden_states": (batch, length, heads, head_dim),
        "dt": (batch, length, heads),
        "A": (heads,),
        "B": (batch, length, groups, state),
        "C": (batch, length, groups, state),
        "D": (heads,),
        "dt_bias": (heads,),
        "initial_states": (batch, heads, head_dim, state),
    }
    generator = torch.Generator().manual_seed(length)
    found = {
        name: torch.randn(shape, generator=generator, dtype=torch.float32)
        for name, shape in shapes.items()
    }
    found["A"] = -found["A"].exp()
    return found


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (16, 2), (50, 1), (50, 4)])
@pytest.mark.parametrize("limit", [(0.0, float("inf")), (0.05, 0.5)])
def test_the_scan_by_heads_is_that_of_mamba2(
    length: int, groups: int, limit: tuple[float, float]
) -> None:
    theirs = transformers.models.mamba2.modeling_mamba2.mamba2_chunk_scan
    with use_in_transformers():
        ours = transformers.models.mamba2.modeling_mamba2.mamba2_chunk_scan
    assert ours is not theirs
    options = {
        "chunk_size": 16,
        "z": None,
        "dt_softplus": True,
        "dt_limit": limit,
        "return_final_states": True,
    }
    results = []
    for scan in (theirs, ours):
        operands = {n: x.requires_grad_() for n, x in mamba2_operands(2, length, groups).items()}
        y, state = scan(**operands, **options)
        (y.sin().sum() + state.square().sum()).backward()
        results.append([y, state, *(x.grad for x in operands.values())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gated", [True, False])
def test_the_step_by_heads_is_that_of_mamba2(dtype: torch.dtype, gated: bool) -> None:
    theirs = transformers.models.mamba2.modeling_mamba2.mamba2_selective_state_update
    with use_in_transformers() as replacement:
        ours = transformers.models.mamba2.modeling_mamba2.mamba2_selective_state_update
    assert f"{theirs.__module__}.{theirs.__name__}" in replacement.names
    given = mamba2_operands(2, 1, 2)
    A, state = given.pop("A"), given.pop("initial_states")
    D, bias, x, dt, B, C = (
        given[name].to(dtype) for name in ("D", "dt_bias", "hidden_states", "dt", "B", "C")
    )
    states = []
    outputs = []
    for step in (theirs, ours):
        states.append(state.to(torch.promote_types(dtype, torch.float32), copy=True))
        y = step(  # as a layer calls it
            states[-1],
            x[:, 0],
            dt.transpose(1, 2).expand(-1, -1, 6),
            A[:, None, None].expand(-1, 6, 8),
            B[:, 0],
            C[:, 0],
            D[:, None].expand(-1, 6),
            z=x[:, 0].flip(0) if gated else None,
            dt_bias=bias[:, None].expand(-1, 6),
            dt_softplus=True,
        )
        outputs.append(y)
    assert outputs[1].dtype == dtype
    near = 4e-2 if dtype == torch.bfloat16 else 1e-5  # Theirs has decays in float32 always.
    torch.testing.assert_close(*states, rtol=near, atol=near)
    torch.testing.assert_close(*outputs, rtol=near, atol=near)


HYBRIDS = {
    "Mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 16, "n_groups": 2},
    "Bamba": {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 32,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
        "attn_layer_indices": [1],
    },
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_model_that_scans_by_heads_trains_and_generates_the_same(family: str) -> None:
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, **HYBRIDS[family]
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    tokens = torch.randint(50, (2, 37))

    def found() -> tuple[torch.Tensor, ...]:
        model.zero_grad()
        made = model(tokens, labels=tokens, use_cache=False)
        made.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        mask = torch.ones_like(tokens)
        new = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
        return (made.logits.detach(), *gradients, new)

    theirs = found()
    with use_in_transformers():
        ours = found()
    assert not torch.equal(ours[0], theirs[0])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


FAMILIES = ["mamba", "falcon_mamba", "jamba", "zamba", "mamba2", "bamba"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
def test_the_convolution_is_theirs(family: str, activation: str | None) -> None:
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 12, generator=generator).mT  # behind a projection, channels are adjacent
    weight, bias = torch.randn(12, 4, generator=generator), torch.randn(12, generator=generator)
    states = [torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    theirs = module.causal_conv1d_fn, module.causal_conv1d_update
    with use_in_transformers():
        ours = module.causal_conv1d_fn, module.causal_conv1d_update
    assert (module.causal_conv1d_fn, module.causal_conv1d_update) == theirs
    results = []
    for state, (whole, update) in zip(states, (theirs, ours), strict=True):
        parts = x.split([1, 1, 7], dim=-1)
        steps = [update(part, state, weight, bias, activation=activation) for part in parts]
        results.append([whole(x, weight, bias, activation=activation), *steps, state])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_prompt_and_its_continuation_generate_the_same_tokens() -> None:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config).eval()
    tokens = torch.randint(50, (2, 7))

    def generated() -> torch.Tensor:
        mask = torch.ones_like(tokens)
        return model.generate(tokens, attention_mask=mask, max_new_tokens=12, do_sample=False)

    theirs = generated()
    with use_in_transformers():
        assert torch.equal(generated(), theirs)


def test_a_version_without_the_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keelback.integrations._transformers.FAMILIES", ())
    monkeypatch.setattr("keelback.integrations._transformers.FAMILIES_BY_HEADS", ("gpt2",))
    for others in ("FAMILIES_OF_DELTA_RULES", "FAMILIES_OF_KIMI_DELTA"):
        monkeypatch.setattr(f"keelback.integrations._transformers.{others}", ())
    with pytest.raises(InputError, match="has no function mamba_selective_scan"):
        use_in_transformers()
