"""Edits of parameters do to the layers what they say, in every family, and come off again."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keelback.audit import find_layers, repair, watching
from keelback.audit._measures import horizon
from keelback.audit._parameters import keep, substituted
from keelback.audit.repairs._edits import (
    EDIT_KINDS,
    DecayFloor,
    EditableLayer,
    RateScale,
    StepScale,
    clipped,
)
from keelback.errors import InputError
from keelback.models import MambaLanguageModelConfig, SelectiveSSMConfig

OWN: dict[str, Callable[[], nn.Module]] = {
    "own-stack": lambda: MambaLanguageModelConfig(vocab_size=61, d_model=16, n_layers=2).build(),
    "own-free": lambda: SelectiveSSMConfig(vocab_size=61, spectral_abscissa=0.1).build(),
    "own-stable": lambda: SelectiveSSMConfig(
        vocab_size=61, parametrisation="stable", spectral_abscissa=-0.1, margin=0.01
    ).build(),
}


def editable(model: nn.Module) -> list[EditableLayer]:
    return [
        EditableLayer(layer, A, torch.rand(len(A), generator=torch.Generator().manual_seed(0)))
        for layer in find_layers(model)
        for A in [layer.state_matrix()]
    ]


@pytest.fixture(params=sorted(OWN))
def own_model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return OWN[request.param]()


def check_rates(model: nn.Module, exact: bool) -> None:
    layers = editable(model)
    kind, values = RateScale(), torch.linspace(-1.0, 2.0, len(layers))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with substituted(model, kind.edits(layers, values)):
        for layer, value in zip(layers, values, strict=True):
            wanted = layer.A * 2**value
            assert torch.allclose(layer.layer.state_matrix(), wanted, rtol=1e-5)
    assert list(before) == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())

    tokens = 4.0
    with substituted(model, DecayFloor().edits(layers, torch.full((len(layers),), 2.0))):
        for layer in layers:
            A = layer.layer.state_matrix()
            horizons, were = (horizon(a, layer.step_mean) for a in (A, layer.A))
            assert float(horizons.max()) <= tokens * 1.0001
            assert (A <= layer.A * (1 - 1e-6) + 1e-6).all()
            untouched = were <= tokens
            if exact:
                assert torch.allclose(A[untouched], layer.A[untouched], rtol=1e-5)


BOUNDED = ("bailing-hybrid", "glm5-next")
"""Families whose forget gate has a lower bound, which stands for A and is no weight."""


def test_rates_in_every_family(family: str, model: nn.Module) -> None:
    if family in BOUNDED:
        layers = find_layers(model)
        assert all(own.adapter.edit_rates(own.module, own.state_matrix()) is None for own in layers)
        with pytest.raises(InputError, match=r"cannot be edited: no weight holds its rates$"):
            repair(model, torch.arange(2, 60).repeat(2), target_length=40, train_length=20)
        return
    check_rates(model, exact=family != "kimi-linear")


def test_rates_of_own_models(own_model: nn.Module) -> None:
    if isinstance(own_model, nn.Module) and own_model.__class__.__name__ == "SelectiveClassifier":
        layers = editable(own_model)
        with substituted(own_model, DecayFloor().edits(layers, torch.tensor([2.0]))):
            A = layers[0].layer.state_matrix()
            assert float(horizon(A, layers[0].step_mean).max()) <= 4.0001
        return
    check_rates(own_model, exact=True)


@contextmanager
def steps_scaled(model: nn.Module, factor: float) -> Iterator[None]:
    """transformers' kernels given every step size `factor` times larger."""
    module = sys.modules[type(model).__module__]

    def scaled(name: str, original: Any) -> Any:
        if name == "mamba_selective_scan":

            def scan(u: Any, dt: Any, *args: Any, delta_bias: Any, **kwargs: Any) -> Any:
                delta = factor * F.softplus(dt + delta_bias[..., None])
                return original(u, delta, *args, **{**kwargs, "delta_softplus": False})
        else:

            def scan(
                u: Any, dt: Any, *args: Any, dt_bias: Any, dt_limit: Any, **kwargs: Any
            ) -> Any:
                delta = factor * F.softplus(dt + dt_bias).clamp(*dt_limit)
                return original(u, delta, *args, **{**kwargs, "dt_softplus": False})

        return scan

    names = [n for n in ("mamba_selective_scan", "mamba2_chunk_scan") if hasattr(module, n)]
    own = {name: getattr(module, name) for name in names}
    for name, original in own.items():
        setattr(module, name, scaled(name, original))
    try:
        yield
    finally:
        for name, original in own.items():
            setattr(module, name, original)


@contextmanager
def exact_norms(model: nn.Module) -> Iterator[None]:
    """The norms after the scans without their epsilon, which leaves them blind to a factor."""
    norms = [layer.module.norm for layer in find_layers(model) if hasattr(layer.module, "norm")]
    norms = [norm for norm in norms if hasattr(norm, "variance_epsilon")]
    own = [norm.variance_epsilon for norm in norms]
    for norm in norms:
        norm.variance_epsilon = 0.0
    try:
        yield
    finally:
        for norm, epsilon in zip(norms, own, strict=True):
            norm.variance_epsilon = epsilon


@pytest.mark.parametrize("exponent", [-1.0, 0.7])
def test_steps_in_every_family(model: nn.Module, tokens: torch.Tensor, exponent: float) -> None:
    layers = editable(model)
    edits = StepScale().edits(layers, torch.full((len(layers),), exponent))
    if "delta" in layers[0].layer.kind:
        assert edits == {}
        return
    with torch.no_grad(), exact_norms(model):
        unscaled = model(tokens, use_cache=False).logits
        with steps_scaled(model, 2**exponent):
            expected = model(tokens, use_cache=False).logits
        with substituted(model, edits):
            found = model(tokens, use_cache=False).logits
    effect = float((unscaled - expected).abs().max())
    assert effect > 1e-4
    assert float((found - expected).abs().max()) < 0.01 * effect


def test_steps_of_own_models(own_model: nn.Module, tokens: torch.Tensor) -> None:
    layers = editable(own_model)
    seen: list[Any] = []
    run = getattr(own_model, "trace", own_model)
    edits = StepScale().edits(layers[:1], torch.tensor([-1.0]))
    with torch.no_grad(), watching(find_layers(own_model), lambda *call: seen.append(call)):
        run(tokens)
        with substituted(own_model, edits):
            run(tokens)
    own, edited = seen[0][2], seen[len(seen) // 2][2]
    own.delta = own.delta * 0.5
    after = 0.5 if layers[0].layer.kind == "mamba" else 1.0
    assert torch.allclose(after * edited.output(), own.output(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", EDIT_KINDS.values(), ids=list(EDIT_KINDS))
def test_edits_carry_gradients_to_their_values(
    tiny_model: Callable[[str], Any], tokens: torch.Tensor, kind: Any
) -> None:
    model = tiny_model("mamba2")
    layers = editable(model)
    start = 1.0 if kind.name == "decay-floor" else 0.1
    values = torch.full((len(layers),), start, requires_grad=True)

    def loss(at: torch.Tensor) -> torch.Tensor:
        with substituted(model, kind.edits(layers, at)):
            return model(tokens, use_cache=False).logits.double().square().mean()

    (gradient,) = torch.autograd.grad(loss(values), values)
    for i in range(len(layers)):
        step = torch.zeros(len(layers))
        step[i] = 1e-2
        with torch.no_grad():
            slope = float(loss(values + step) - loss(values - step)) / 2e-2
        assert float(gradient[i]) == pytest.approx(slope, rel=0.05, abs=1e-5)


def test_clipping_touches_only_what_grows() -> None:
    torch.manual_seed(1)
    model = OWN["own-free"]()
    layers = editable(model)
    before = layers[0].A.clone()
    assert (before >= 0).any()
    replaced = keep(model, clipped(layers, horizon=100.0))
    after = model.ssm.A.detach()
    grew = before >= 0
    assert torch.equal(after[~grew], before[~grew])
    assert torch.allclose(horizon(after, layers[0].step_mean)[grew].float(), torch.tensor(100.0))
    keep(model, replaced)
    assert torch.equal(model.ssm.A, before)
    with torch.no_grad():
        model.ssm.state_matrix.A.clamp_(max=-0.1)
    assert clipped(editable(model), 100.0) == {}


def test_edits_are_rounded_to_the_stored_type(tiny_model: Callable[[str], Any]) -> None:
    torch.manual_seed(0)
    model = type(tiny_model("mamba"))(tiny_model("mamba").config)
    layers = editable(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    edits = RateScale().edits(layers, torch.full((2,), 0.3))
    replaced = keep(model, edits, torch.bfloat16)
    for name in edits:
        kept = model.get_parameter(name)
        assert torch.equal(kept, kept.bfloat16().float())
        assert not torch.equal(kept, before[name])
    keep(model, replaced)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_substitution_that_fails_is_taken_back(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("mamba")
    before = [id(p) for p in model.parameters()]
    edits = RateScale().edits(editable(model), torch.ones(2)) | {"no.such.parameter": torch.ones(1)}
    with pytest.raises(AttributeError), substituted(model, edits):
        pass
    assert [id(p) for p in model.parameters()] == before
