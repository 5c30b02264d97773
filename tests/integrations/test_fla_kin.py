"""What `provide_fla` gives for RWKV-7 and linear attention, against loops in float64."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from keelback.errors import InputError
from keelback.integrations import provide_fla
from keelback.integrations._stand_in import is_installed

GENERALISED = {
    "chunk_rwkv7": "rwkv7",
    "fused_recurrent_rwkv7": "rwkv7",
    "fused_mul_recurrent_rwkv7": "rwkv7",
    "chunk_dplr_delta_rule": "generalized_delta_rule",
    "fused_recurrent_dplr_delta_rule": "generalized_delta_rule",
    "chunk_iplr_delta_rule": "generalized_delta_rule",
    "fused_recurrent_iplr_delta_rule": "generalized_delta_rule",
}
LINEAR = {
    "chunk_simple_gla": "simple_gla",
    "fused_chunk_simple_gla": "simple_gla",
    "fused_recurrent_simple_gla": "simple_gla",
    "chunk_retention": "retention",
    "fused_chunk_retention": "retention",
    "fused_recurrent_retention": "retention",
    "chunk_lightning_attn": "lightning_attn",
    "fused_recurrent_lightning_attn": "lightning_attn",
    "chunk_gla": "gla",
    "fused_chunk_gla": "gla",
    "fused_recurrent_gla": "gla",
    "chunk_linear_attn": "linear_attn",
    "fused_chunk_linear_attn": "linear_attn",
    "fused_recurrent_linear_attn": "linear_attn",
}
EVERY = GENERALISED | LINEAR
NOT_SCALED = ("chunk_rwkv7", "fused_mul_recurrent_rwkv7")
"""Those that leave the queries as they are unless a scale is given."""
HEADS, KEY, VALUE = 4, 8, 6


@pytest.fixture(autouse=True)
def _provided() -> Iterator[None]:
    if is_installed("fla"):
        pytest.skip("flash-linear-attention itself is installed")
    with provide_fla():
        yield


def function(name: str) -> Any:
    return getattr(importlib.import_module(f"fla.ops.{EVERY[name]}"), name)


def operands(name: str, batch: int = 2, length: int = 20) -> dict[str, Tensor]:
    """By the names of fla's arguments; rows of length alone."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(batch, length, HEADS, *size, generator=generator)

    q, k, v, kk, a = normal(KEY), normal(KEY), normal(VALUE), normal(KEY), normal(KEY).sigmoid()
    kk, decay = torch.nn.functional.normalize(kk, dim=-1), -0.6 * normal(KEY).sigmoid()
    if name in LINEAR:
        given = {"q": q, "k": k, "v": v}
        if LINEAR[name] == "simple_gla":
            return {**given, "g": -normal().abs()}
        of_channels = {"gla": "gk" if name == "fused_recurrent_gla" else "g"}.get(LINEAR[name])
        return given if of_channels is None else {**given, of_channels: -normal(KEY).abs()}
    if name == "fused_mul_recurrent_rwkv7":
        return {"r": q, "w": decay, "k": k, "v": v, "kk": kk, "a": a}
    both = {"k": k, "v": v, "a": -kk, "b": a * kk}
    if GENERALISED[name] == "rwkv7":
        return {"r": q, "w": decay, **both}
    return {"q": q, **both} if "iplr" in name else {"q": q, **both, "gk": decay}


def more(name: str) -> dict[str, Any]:
    """What a function must be told besides."""
    if "linear" in name:
        return {"normalize": False}
    return {"layer_idx": 1, "num_layers": 3} if "lightning" in name else {}


def loop(
    name: str, given: dict[str, Tensor], scale: float, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence that fla writes of each function, step by step in float64."""
    wide = {key: x.double() for key, x in given.items()}
    q, k, v = wide.get("q", wide.get("r")), wide["k"], wide["v"]
    assert q is not None
    a, b = wide.get("a", torch.zeros_like(k)), wide.get("b", torch.zeros_like(k))
    if name == "fused_mul_recurrent_rwkv7":
        a, b = -wide["kk"], wide["kk"] * wide["a"]
    g = wide.get("gk", wide.get("w", torch.zeros_like(k)))
    heads = torch.arange(HEADS, dtype=torch.float64)
    if "g" in wide:
        g = wide["g"] if wide["g"].ndim == 4 else wide["g"].unsqueeze(-1)
    elif "retention" in name:
        g = torch.log(1 - 2 ** (-5 - heads)).view(HEADS, 1).expand_as(k)
    elif "lightning" in name:
        g = -(8 / HEADS * (1 - 1 / 3)) * heads.view(HEADS, 1).expand_as(k)
    h = torch.zeros(len(v), HEADS, KEY, VALUE).double() if state is None else state.double()
    outputs = []
    for t in range(v.shape[1]):
        erased = torch.einsum("bhk,bhkv->bhv", a[:, t], h)
        h = h * g[:, t].exp().unsqueeze(-1) + b[:, t].unsqueeze(-1) * erased.unsqueeze(-2)
        h = h + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], h))
    return torch.stack(outputs, 1).float(), h.float()


def default_scale(name: str) -> float:
    return 1.0 if name in NOT_SCALED else KEY**-0.5


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_the_recurrence_with_flas_defaults(name: str) -> None:
    given = operands(name)
    y, last = function(name)(**given, **more(name))
    exact, exact_last = loop(name, given, default_scale(name))
    near(y, exact)
    if name == "fused_recurrent_rwkv7":
        near(last, exact_last)
    else:
        assert last is None


@pytest.mark.parametrize("name", EVERY)
def test_scale_states_and_gradients(name: str) -> None:
    given = {key: x.requires_grad_() for key, x in operands(name).items()}
    states = torch.randn(2, HEADS, KEY, VALUE, generator=torch.Generator().manual_seed(1))
    states.requires_grad_()
    y, last = function(name)(
        **given, **more(name), scale=0.3, initial_state=states, output_final_state=True
    )
    exact, exact_last = loop(name, given, 0.3, states)
    near(y, exact)
    near(last, exact_last)
    leaves = [*given.values(), states]
    found = torch.autograd.grad(y.sin().sum() + last.square().sum(), leaves)
    wanted = torch.autograd.grad(exact.sin().sum() + exact_last.square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_a_step_goes_on_from_the_states(name: str) -> None:
    given, run = operands(name), function(name)
    whole, last = run(**given, **more(name), output_final_state=True)
    before = {key: x[:, :-1] for key, x in given.items()}
    _, states = run(**before, **more(name), output_final_state=True)
    now = {key: x[:, -1:] for key, x in given.items()}
    y, after = run(**now, **more(name), initial_state=states, output_final_state=True)
    near(y, whole[:, -1:])
    near(after, last)


@pytest.mark.parametrize("name", EVERY)
def test_packed_sequences(name: str) -> None:
    given, run = operands(name, batch=1), function(name)
    bounds, scale = torch.tensor([0, 5, 6, 20]), default_scale(name)
    states = torch.randn(3, HEADS, KEY, VALUE)
    alone, _ = run(**given, **more(name), cu_seqlens=bounds, output_final_state=False)
    for start in (None, states):
        options = {"initial_state": start, "cu_seqlens": bounds, "output_final_state": True}
        y, last = run(**given, **more(name), **options)
        for i, (a, b) in enumerate([(0, 5), (5, 6), (6, 20)]):
            own = None if start is None else start[i : i + 1]
            exact, exact_last = loop(name, {k: x[:, a:b] for k, x in given.items()}, scale, own)
            near(y[:, a:b], exact)
            near(last[i : i + 1], exact_last)
            if start is None:
                near(alone[:, a:b], exact)


@pytest.mark.parametrize("name", ["chunk_rwkv7", "chunk_simple_gla", "chunk_gla"])
def test_options_of_how_are_taken_and_others_refused_by_name(name: str) -> None:
    given, run = operands(name), function(name)
    expected, _ = run(**given)
    how = {"chunk_size": 16, "safe_gate": True, "disable_recompute": True, "cp_context": None}
    near(run(**given, **how)[0], expected)
    states = torch.randn(2, HEADS, KEY, VALUE)
    y, last = run(**given, initial_state=states, output_final_state=True)
    turned, turned_last = run(
        **given, initial_state=states.mT, output_final_state=True, state_v_first=True
    )
    near(turned, y)
    near(turned_last.mT, last)
    for option in ("cp_context", "reverse", "head_first", "wings"):
        with pytest.raises(InputError, match=f"keelback's {name} does not take {option}"):
            run(**given, **{option: True})
    with pytest.raises(InputError, match="with a batch of 2; it should be 1"):
        run(**given, cu_seqlens=torch.tensor([0, 20]))


def test_the_lower_bound_of_rwkv_only_promises_something() -> None:
    given, run = operands("chunk_rwkv7"), function("chunk_rwkv7")
    near(run(**given, lower_bound=-0.6065306597126334)[0], run(**given)[0])


def test_decays_of_heads_and_of_steps_are_not_both_given() -> None:
    given, run = operands("chunk_simple_gla"), function("chunk_simple_gla")
    gamma = -torch.rand(HEADS)
    with pytest.raises(InputError, match="chunk_simple_gla is given g and g_gamma"):
        run(**given, g_gamma=gamma)
    given.pop("g")
    constant = run(**given, g_gamma=gamma)[0]
    near(constant, run(**given, g=gamma.expand(2, 20, HEADS))[0])
    near(run(**given)[0], run(**given, g=torch.zeros(2, 20, HEADS))[0])


@pytest.mark.parametrize(
    "name", ["chunk_rwkv7", "chunk_simple_gla", "chunk_retention", "chunk_gla"]
)
def test_half_precision(name: str) -> None:
    """As exact as its operands: the scale is not rounded to their type."""
    given = {key: x.bfloat16() for key, x in operands(name).items()}
    y, last = function(name)(**given, scale=0.3, output_final_state=True)
    exact, exact_last = loop(name, given, 0.3)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), exact, rtol=4e-3, atol=1e-5)
    near(last, exact_last)


def test_the_package_has_what_flas_has() -> None:
    ops = importlib.import_module("fla.ops")
    for name in EVERY:
        assert hasattr(ops, name) == (name != "fused_mul_recurrent_rwkv7")
    assert hasattr(ops, "parallel_simple_gla")
    assert hasattr(ops, "parallel_retention")
    assert not hasattr(ops, "chunk_rwkv6")
