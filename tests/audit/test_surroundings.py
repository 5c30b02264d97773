"""A layer that does more than its scan is not read, wherever in the layer it does so."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checkpoint_folders import TOKENS
from torch import Tensor, nn

from keelback.audit import TrainingMonitor, audit, find_layers, not_audited, repair
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")

Wrap = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def remembered(x: Tensor) -> Tensor:
    """An average over all earlier positions, without any parameter."""
    weights = 0.99 ** torch.arange(x.shape[1], dtype=x.dtype)
    kernel = weights.flip(0).expand(x.shape[-1], 1, -1)
    padded = F.pad(x.mT, (x.shape[1] - 1, 0))
    return F.conv1d(padded, kernel, groups=x.shape[-1]).mT


def both_ways(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return layer(x) + layer(x.flip(1)).flip(1)


def in_chunks(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([layer(part) for part in x.split(16, dim=1)], dim=1)


class KeepsSomething:
    """Adds what it gave last at the call before."""

    def __init__(self) -> None:
        self.kept: Tensor | float = 0.0

    def __call__(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = layer(x) + self.kept
        self.kept = y[:1, -1:].detach()
        return y


MORE: dict[str, tuple[Callable[[], Wrap], str]] = {
    "after": (lambda: lambda layer, x: layer(x) + remembered(x), "after the scan"),
    "before": (lambda: lambda layer, x: layer(x + remembered(x)), "before the projection"),
    "both ways": (lambda: both_ways, "2 times in one call of the layer: it scans more than once"),
    "in chunks": (lambda: in_chunks, "times in one call of the layer"),
    "kept": (KeepsSomething, "something else for the same input"),
}
NOT_MORE: dict[str, Wrap] = {
    "scaled": lambda layer, x: 0.5 * layer(2.0 * x),
    "normalised": lambda layer, x: layer(F.layer_norm(x, x.shape[-1:])),
    "residual": lambda layer, x: x + layer(x),
    "bounded": lambda layer, x: torch.tanh(layer(x)),
}


def with_layer(model: Any, wrap: Wrap) -> nn.Module:
    """A copy of a model in which the first mixer computes something around what it does."""
    made = copy.deepcopy(model)
    mixer = made.backbone.layers[0].mixer
    inside = type(mixer)

    class Wrapped(inside):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            own = super().forward
            return wrap(lambda x: own(x, *args, **kwargs), hidden_states)

    mixer.__class__ = Wrapped
    return made.eval()


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("what", MORE)
def test_more_than_a_scan(tiny_model: Callable[[str], Any], family: str, what: str) -> None:
    made, words = MORE[what]
    model = with_layer(tiny_model(family), made())
    result = audit(model, TOKENS, train_length=20, length=40, precision=False)
    (missed,) = result.not_audited
    assert missed.what == "backbone.layers.0.mixer"
    assert words in missed.reason
    assert [own.layer.name for own in result.measures] == ["backbone.layers.1.mixer"]
    assert "Only part of the model was read" in result.verdict


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("what", NOT_MORE)
def test_what_is_done_at_each_position(
    tiny_model: Callable[[str], Any], family: str, what: str
) -> None:
    model = with_layer(tiny_model(family), NOT_MORE[what])
    result = audit(model, TOKENS, train_length=20, length=40, precision=False)
    assert result.not_audited == []
    assert len(result.measures) == 2


def test_neither_repair_nor_monitor_take_it_for_what_it_looks_like(
    tiny_model: Callable[[str], Any],
) -> None:
    model = with_layer(tiny_model("mamba2"), MORE["before"][0]())
    options: dict[str, Any] = {"search": "shared", "method": "rate-scale", "force": True}
    result = repair(model, TOKENS, target_length=40, train_length=20, **options)
    assert list(result.replaced) == ["backbone.layers.1.mixer.A_log"]
    assert "before the projection" in result.untouched["backbone.layers.0.mixer"]
    monitor = TrainingMonitor(model, every=1)
    for step in range(2):
        monitor.after_step(step, TOKENS.view(4, -1))
    assert {(r.step, r.layer) for r in monitor.readings} == {
        (0, "backbone.layers.1.mixer"),
        (1, "backbone.layers.1.mixer"),
    }
    (failure,) = monitor.failures
    assert failure.startswith("step 0: backbone.layers.0.mixer is not watched: it mixes positions")


def test_a_model_of_nothing_else(tiny_model: Callable[[str], Any]) -> None:
    model = with_layer(tiny_model("mamba2"), MORE["before"][0]())
    del model.backbone.layers[1]  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match=r"none of its layers can be read: backbone\.layers\.0"):
        repair(model, TOKENS, target_length=40, train_length=20)
    monitor = TrainingMonitor(model, every=1)
    for step in range(3):
        assert monitor.after_step(step, TOKENS.view(4, -1)) == []
    assert len(monitor.failures) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["minimax", "recurrent-gemma", "falcon-h1", "kimi-linear"])
def test_sound_layers_in_half_precision_are_watched(
    tiny_model: Callable[[str], Any], family: str, dtype: torch.dtype
) -> None:
    """MiniMax keeps its decays in buffers, which are rounded one by one."""
    model = copy.deepcopy(tiny_model(family)).to(dtype)
    monitor = TrainingMonitor(model, every=1)
    monitor.after_step(0, TOKENS.view(4, -1))
    assert monitor.failures == []
    assert {r.layer for r in monitor.readings} == {layer.name for layer in find_layers(model)}


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ("log_A_real", True),  # S4D
        ("Lambda_re", True),  # S5
        ("nu_log", True),  # the LRU
        ("time_decay", True),  # RWKV
        ("recurrent_param", True),
        ("A", True),
        ("lambda1", False),  # a scale of each channel, as in image encoders
        ("weight", False),
        ("lora_A", False),
        ("scale", False),
    ],
)
def test_rates_under_other_names_are_not_passed_over(
    tiny_model: Callable[[str], Any], parameter: str, named: bool
) -> None:
    """Of a class whose name says nothing, beside layers that are read."""
    model = copy.deepcopy(tiny_model("mamba"))
    model.extra = Odd(parameter)
    assert not_audited(model, find_layers(model)) == ({"Odd": 1} if named else {})


class Odd(nn.Module):
    """Has one parameter."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(4)))
