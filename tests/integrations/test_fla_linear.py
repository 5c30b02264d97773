"""What `provide_fla` gives for linear attention without states, normalised, and without decay."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from keelback.delta.reference import delta_rule_reference
from keelback.errors import InputError
from keelback.integrations import provide_fla
from keelback.integrations._stand_in import is_installed

HEADS, KEY, VALUE = 4, 8, 6


@pytest.fixture(autouse=True)
def _provided() -> Iterator[None]:
    if is_installed("fla"):
        pytest.skip("flash-linear-attention itself is installed")
    with provide_fla():
        yield


def function(name: str) -> Any:
    return getattr(importlib.import_module("fla.ops"), name)


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def queries_keys_values(batch: int = 2, length: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    q, k = normal(2, batch, length, HEADS, KEY)
    return q, k, normal(batch, length, HEADS, VALUE, seed=1)


def weights_of(q: Tensor, k: Tensor, g: Tensor | None, scale: float) -> Tensor:
    """Of each value in each output, (batch, heads, length, length), pair by pair in float64."""
    batch, length = q.shape[:2]
    found = torch.zeros(batch, HEADS, length, length, dtype=torch.float64)
    for i in range(length):
        for j in range(i + 1):
            decay = 1.0 if g is None else g[:, j + 1 : i + 1].double().sum(1).exp()
            found[:, :, i, j] = scale * (q[:, i].double() * k[:, j].double()).sum(-1) * decay
    return found


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("name", ["parallel_simple_gla", "parallel_retention", "no decay"])
def test_parallel_functions_give_the_weights_too(name: str, scale: float | None) -> None:
    q, k, v = queries_keys_values()
    g: Tensor | None = -normal(2, 20, HEADS, seed=2).abs()
    options: dict[str, Any] = {} if scale is None else {"scale": scale}
    if name == "parallel_retention":
        g = torch.log(1 - 2 ** (-5 - torch.arange(HEADS).double())).expand(2, 20, HEADS)
    elif name == "no decay":
        name, g = "parallel_simple_gla", None
    if name == "parallel_simple_gla":
        options["g"] = g
    weights = weights_of(q, k, g, KEY**-0.5 if scale is None else scale)
    y, given = function(name)(q, k, v, **options, output_attentions=True)
    near(given, weights)
    near(y, torch.einsum("bhij,bjhv->bihv", weights, v.double()))
    alone, nothing = function(name)(q, k, v, **options)
    assert nothing is None
    assert torch.equal(alone, y)


def test_weights_after_a_decay_that_nothing_survives() -> None:
    q, k, v = queries_keys_values(1, 6)
    g = torch.zeros(1, 6, HEADS)
    g[:, 3] = -500000.0
    _, weights = function("parallel_simple_gla")(q, k, v, g, output_attentions=True)
    near(weights, weights_of(q, k, g, KEY**-0.5))


def test_parallel_functions_take_packed_sequences_or_give_weights() -> None:
    q, k, v = queries_keys_values(1)
    bounds = torch.tensor([0, 7, 20])
    y, _ = function("parallel_retention")(q, k, v, cu_seqlens=bounds)
    near(y[:, 7:], function("parallel_retention")(q[:, 7:], k[:, 7:], v[:, 7:])[0])
    with pytest.raises(InputError, match="is given cu_seqlens and output_attentions"):
        function("parallel_retention")(q, k, v, output_attentions=True, cu_seqlens=bounds)
    with pytest.raises(InputError, match="does not take wings"):
        function("parallel_retention")(q, k, v, wings=True)


def test_a_decay_per_value_channel_is_refused() -> None:
    q, k, v = queries_keys_values()
    with pytest.raises(InputError, match="keelback's fused_recurrent_gla does not take gv"):
        function("fused_recurrent_gla")(q, k, v, gv=torch.zeros_like(v))
    near(function("fused_recurrent_gla")(q, k, v)[0], function("chunk_simple_gla")(q, k, v)[0])


@pytest.mark.parametrize("name", ["chunk_linear_attn", "fused_recurrent_linear_attn"])
def test_normalised_linear_attention(name: str) -> None:
    q, k, v = queries_keys_values()
    q, k, run = q.exp(), k.exp(), function(name)
    weights = weights_of(q, k, None, 0.3)
    plain = torch.einsum("bhij,bjhv->bihv", weights, v.double())
    expected = plain / weights.sum(-1).transpose(1, 2).unsqueeze(-1)
    y, none = run(q, k, v, 0.3, normalize=True)
    near(y, expected)
    assert none is None
    by_default = expected if name == "chunk_linear_attn" else plain
    near(run(q, k, v, 0.3)[0], by_default)
    first, states = run(q[:, :9], k[:, :9], v[:, :9], 0.3, normalize=True, output_final_state=True)
    values, sums = states
    near(sums, k[:, :9].sum(1, keepdim=True))
    near(values, torch.einsum("bjhk,bjhv->bhkv", k[:, :9], v[:, :9]))
    for stop in (10, 20):  # a step, and more
        then, _ = run(*(x[:, 9:stop] for x in (q, k, v)), 0.3, initial_state=states, normalize=True)
        near(torch.cat([first, then], 1), expected[:, :stop])


def test_normalised_linear_attention_of_packed_sequences() -> None:
    q, k, v = queries_keys_values(1)
    q, k, run = q.exp(), k.exp(), function("chunk_linear_attn")
    states = normal(2, HEADS, KEY, VALUE), normal(2, 1, HEADS, KEY, seed=3).exp()
    y, last = run(q, k, v, None, states, True, cu_seqlens=torch.tensor([0, 7, 20]))
    for i, (start, stop) in enumerate([(0, 7), (7, 20)]):
        own = [x[:, start:stop] for x in (q, k, v)]
        expected, after = run(*own, None, tuple(x[i : i + 1] for x in states), True)
        near(y[:, start:stop], expected)
        near(last[0][i : i + 1], after[0])
        near(last[1][i : i + 1], after[1])
    with pytest.raises(InputError, match="does not take state_v_first"):
        run(q, k, v, state_v_first=True)
    with pytest.raises(InputError, match="sums of keys in initial_state, but not normalize"):
        run(q, k, v, initial_state=states, normalize=False)


@pytest.mark.parametrize("name", ["chunk_delta_rule", "fused_recurrent_delta_rule"])
def test_the_delta_rule_without_decay(name: str) -> None:
    q, k, v = queries_keys_values()
    beta, still = normal(2, 20, HEADS, seed=2).sigmoid(), torch.zeros(2, 20, HEADS)
    states = normal(2, HEADS, KEY, VALUE, seed=4)
    y, last = function(name)(
        q, k, v, beta, 0.3, states, output_final_state=True, use_qk_l2norm_in_kernel=True
    )
    wide = (x.double() for x in (q, k, v, still, beta, states))
    expected, after = delta_rule_reference(*wide, normalise=True, scale=0.3)
    near(y, expected)
    near(last, after)
    ones = function(name)(q, k, v, torch.ones(2, 20, HEADS), use_qk_l2norm_in_kernel=True)[0]
    near(function(name)(q, k, v, use_qk_l2norm_in_kernel=True)[0], ones)
