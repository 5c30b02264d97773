"""Gradient checkpointing changes no number, and keeps less."""

import pytest
import torch
from torch import nn

from keelback.data import Split
from keelback.errors import InputError
from keelback.models import SelectiveSSMConfig, model_config
from keelback.training import Recipe, recompute_layers, train

FIELDS = {"kind": "mamba-stack", "vocab_size": 5, "d_model": 8, "n_layers": 4}


def stack() -> nn.Module:
    return model_config(FIELDS).build(torch.Generator().manual_seed(1))


def kept_bytes(model: nn.Module, tokens: torch.Tensor) -> int:
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(tokens)
    return sum(sizes)


def test_gradients_are_the_same_and_less_is_kept() -> None:
    tokens = torch.randint(5, (3, 50), generator=torch.Generator().manual_seed(0))
    plain, thrifty = stack(), stack()
    recompute_layers(thrifty)
    for model in (plain, thrifty):
        model(tokens).square().sum().backward()
    for one, other in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    assert kept_bytes(thrifty, tokens) < 0.5 * kept_bytes(plain, tokens)


def test_a_training_has_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, (24, 9), generator=generator, dtype=torch.int32)
    split = Split(tokens, tokens[:, 0].long() % 2, torch.full((24,), 9))
    results = []
    for recompute in (False, True):
        model = stack()
        if recompute:
            recompute_layers(model)
        results += train([model], [split], Recipe(epochs=2, batch_size=8), [1])
    plain, thrifty = results
    assert plain.history == thrifty.history
    for name, tensor in plain.weights.items():
        assert torch.equal(tensor, thrifty.weights[name])


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="a SelectiveClassifier has none"):
        recompute_layers(SelectiveSSMConfig(vocab_size=2).build())
