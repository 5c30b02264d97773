"""The norms of transformers' layers by keelback's kernels: what is replaced, and what is left."""

import copy
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointing import with_and_without
from models_compared import close, results
from norms_of_transformers import (
    MODULES,
    inputs_of,
    known_norms,
    make_layer,
    module_of,
    results_of,
)
from torch import Tensor, nn

from keelback.benchmarks.families import FAMILIES, build
from keelback.errors import InputError
from keelback.integrations import _norms, use_in_transformers
from keelback.integrations._norm_forms import form_of
from keelback.integrations._recompute import is_ours
from keelback.integrations._replacement import Replacement
from keelback.norm._op import WIDEST

transformers = pytest.importorskip("transformers")

NORMS = known_norms()
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _small_inputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_norms, "_FASTER_FROM", (0, 0))


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The operands and options of every call that keelback's norm is given from now on."""
    found: list[Any] = []
    ours = _norms.normalise

    def watched(operands: Any, options: Any) -> Tensor:
        found.append((operands, options))
        return ours(operands, options)

    monkeypatch.setattr(_norms, "normalise", watched)
    return found


def test_every_gated_norm_of_a_family_is_replaced_and_given_back() -> None:
    gated = {
        f"{module.__name__}.{name}": kind
        for module in filter(None, map(module_of, MODULES))
        for name, kind in vars(module).items()
        if isinstance(kind, type) and name.endswith("RMSNormGated")
    }
    falcon = transformers.models.falcon_h1.modeling_falcon_h1.FalconH1RMSNormGated
    if "input_ndim" not in falcon.forward.__code__.co_varnames:  # Older ones drop an axis of one.
        del gated[f"{falcon.__module__}.{falcon.__name__}"]
    assert gated
    assert set(gated) <= set(NORMS)
    assert not any(is_ours(kind.forward) for kind in NORMS.values())
    with use_in_transformers():
        assert all(is_ours(kind.forward) for kind in NORMS.values())
    assert not any(is_ours(kind.forward) for kind in NORMS.values())


@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_theirs_in_float32(
    name: str, norm_before_gate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, kind = calls_of(monkeypatch), NORMS[name]
    layer = make_layer(kind, torch.float32, norm_before_gate=norm_before_gate)
    inputs = inputs_of(kind, torch.float32)
    expected = results_of(layer, inputs)
    assert not calls
    with use_in_transformers():
        found = results_of(layer, inputs)
    assert len(calls) == 1
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("own", [None, torch.float32], ids=["one dtype", "weight in float32"])
@pytest.mark.parametrize("name", NORMS)
def test_the_definition_rounds_where_theirs_does(
    name: str, own: torch.dtype | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: both are PyTorch's operations. With the kernels it is compared in tests/norm."""
    monkeypatch.setattr(_norms, "_FASTER", {"cpu": HALF})
    calls, kind = calls_of(monkeypatch), NORMS[name]
    layer, inputs = make_layer(kind, own or dtype), inputs_of(kind, dtype)
    expected = layer(*inputs)
    with use_in_transformers():
        found = layer(*inputs)
    assert len(calls) == 1
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_these_norms_alone_trains_and_generates_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        model = build(family)
    except InputError as error:
        pytest.skip(f"{family}: {error}")
    calls = calls_of(monkeypatch)
    tokens = torch.randint(30, (2, 24), generator=torch.Generator().manual_seed(0))
    expected = logits_and_gradients(model, tokens)
    module = importlib.import_module(type(model).__module__)
    with Replacement() as replacement:
        _norms.replace_norms(replacement, module)
        assert replacement.names
        found = logits_and_gradients(model, tokens)
    assert calls
    close(found, expected)


def logits_and_gradients(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    model.zero_grad()
    logits = model(tokens, use_cache=False).logits
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_generation_with_all_that_is_replaced() -> None:
    model: Any = build("mamba2").eval()
    tokens = torch.randint(30, (2, 24), generator=torch.Generator().manual_seed(0))
    expected = results(model, tokens)
    with use_in_transformers():
        found = results(model, tokens)
    close(found, expected)


def test_layers_that_are_run_again_after_it_was_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build("mamba2").train()
    found, expected = with_and_without(model, torch.randint(30, (2, 12)))
    close(found, expected)


def test_a_norm_under_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = NORMS["transformers.models.mamba2.modeling_mamba2.MambaRMSNormGated"]
    layer, inputs = make_layer(kind, torch.float32), inputs_of(kind, torch.float32)
    expected = results_of(layer, inputs)
    with use_in_transformers():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        found = results_of(compiled, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Sharded(Tensor):
    """Stands for what tensor parallelism makes of a parameter."""


def gated_kind() -> type[nn.Module]:
    return NORMS["transformers.models.mamba2.modeling_mamba2.MambaRMSNormGated"]


def test_what_is_not_for_the_kernels_is_left_to_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = gated_kind()
    layer, inputs = make_layer(kind, torch.float32), inputs_of(kind, torch.float32)

    class Derived(kind):
        """May compute something else in any of its methods."""

    derived = make_layer(Derived, torch.float32)
    sharded = copy.deepcopy(layer)
    sharded.weight = nn.Parameter(sharded.weight.detach().as_subclass(Sharded))
    wide = kind(WIDEST + 1, WIDEST + 1)
    on_meta = copy.deepcopy(layer).to("meta")
    cases = [
        (derived, inputs),
        (sharded, inputs),
        (layer, [x.as_subclass(Sharded) for x in inputs]),
        (layer, [inputs[0], inputs[1][:, :1]]),
        (layer, [inputs[0].double(), inputs[1]]),
        (layer, [inputs[0].bfloat16(), inputs[1]]),
        (copy.deepcopy(layer).double(), inputs),
        (wide, [torch.randn(2, WIDEST + 1)] * 2),
        (on_meta, [x.to("meta") for x in inputs]),
    ]
    calls = calls_of(monkeypatch)
    for own, given in cases:
        expected = own(*given)
        with use_in_transformers():
            found = own(*given)
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        assert found.is_meta or torch.equal(found, expected)
    assert not calls
    with use_in_transformers():
        layer(*inputs)
        layer(inputs[0])
        layer(inputs[0], gate=inputs[1])
        layer(hidden_states=inputs[0], gate=inputs[1])
    assert len(calls) == 4


def test_small_inputs_on_a_cpu_are_left_to_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = NORMS["transformers.models.mamba2.modeling_mamba2.Mamba2RMSNorm"]
    numbers = inputs_of(gated_kind(), torch.float32)[0].numel()
    calls = calls_of(monkeypatch)
    for least, expected in (((0, numbers), 2), ((numbers + 1, 0), 1), ((numbers + 1,) * 2, 0)):
        monkeypatch.setattr(_norms, "_FASTER_FROM", least)
        calls.clear()
        with use_in_transformers():
            for kind in (plain, gated_kind()):
                make_layer(kind, torch.float32)(*inputs_of(kind, torch.float32))
        assert len(calls) == expected


def test_norms_are_kept_where_asked() -> None:
    with use_in_transformers(norms=False) as replaced:
        assert replaced.names
        assert not [name for name in replaced.names if "Norm" in name]
    with use_in_transformers() as replaced:
        assert [name for name in replaced.names if "Norm" in name]


def test_an_activation_without_a_kernel_is_left_to_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = NORMS["transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextRMSNormGated"]
    layer, inputs = make_layer(kind, torch.float32), inputs_of(kind, torch.float32)
    layer.activation = "gelu"
    expected = layer(*inputs)
    calls = calls_of(monkeypatch)
    with use_in_transformers():
        assert torch.equal(layer(*inputs), expected)
        assert not calls
        layer.activation = "sigmoid"
        layer(*inputs)
    assert [options.sigmoid for _, options in calls] == [True]


LOOK_ALIKES = '''
import functools
import torch
from torch import nn


class Same(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As the plain norm's, but for this line."""
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)  # wide
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class OneAdded(nn.Module):
    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return (1 + self.weight) * hidden_states.to(input_dtype)


class Decorated(nn.Module):
    @functools.cache
    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


def doubled(function):
    @functools.wraps(function)
    def double(self, hidden_states):
        return 2 * function(self, hidden_states)

    return double


class Wrapped(nn.Module):
    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


Wrapped.forward = doubled(Wrapped.forward)
Other = Same


class Inherits(Same):
    pass
'''


def test_classes_that_look_alike_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "look_alikes.py").write_text(LOOK_ALIKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    module: Any = importlib.import_module("look_alikes")
    known = {name for name in vars(module) if hasattr(vars(module)[name], "forward")}
    assert {name for name in known if form_of(vars(module)[name].forward)} >= {"Same"}
    for name in ("OneAdded", "Decorated", "Wrapped"):
        assert form_of(vars(module)[name].forward) is None
    with Replacement() as replacement:
        _norms.replace_norms(replacement, module)
        assert replacement.names == ["look_alikes.Same.forward"]
    sys.modules.pop("look_alikes")


def test_code_that_nobody_can_read_is_left_alone() -> None:
    namespace: dict[str, Any] = {}
    exec("def forward(self, hidden_states): return hidden_states", namespace)
    assert form_of(namespace["forward"]) is None
    assert form_of(len) is None
    assert form_of(types.SimpleNamespace()) is None


def test_within_another_use_it_is_replaced_and_given_back() -> None:
    kind = gated_kind()
    with use_in_transformers():
        outer = kind.forward
        with use_in_transformers() as inner:
            assert f"{kind.__module__}.{kind.__name__}.forward" in inner.names
        assert kind.forward is outer
    assert not is_ours(kind.forward)
