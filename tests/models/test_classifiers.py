"""All classifiers behind one interface: sizes, replicas, weights on disk, learning."""

import pytest
import torch

from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import (
    BASELINES,
    MambaClassifierConfig,
    SelectiveSSMConfig,
    load_model,
    matched_baseline,
    model_config,
    parameter_count,
    save_model,
)
from keelback.training import Recipe, accuracy, train
from keelback.training._replicas import Replicas

SMALL_STACK = MambaClassifierConfig(vocab_size=16, d_model=8, n_layers=2, d_state=4)


def configs(**fields):
    like = SelectiveSSMConfig(**{"vocab_size": 16, "d_model": 4, "d_state": 4} | fields)
    stack = SMALL_STACK.model_copy(
        update={"vocab_size": like.vocab_size, "n_classes": like.n_classes}
    )
    return {kind: matched_baseline(kind, like) for kind in BASELINES} | {"mamba-stack": stack}


KINDS = [*BASELINES, "mamba-stack"]


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize(
    ("d_model", "d_state", "n_classes"), [(4, 4, 2), (16, 4, 2), (16, 4, 10), (32, 8, 10)]
)
def test_baselines_are_as_large_as_the_selective_ssm(kind, d_model, d_state, n_classes):
    like = SelectiveSSMConfig(vocab_size=7, d_model=d_model, d_state=d_state, n_classes=n_classes)
    matched = matched_baseline(kind, like)
    assert (matched.vocab_size, matched.n_classes, matched.d_model) == (7, n_classes, d_model)
    size, target = parameter_count(matched.build()), parameter_count(like.build())
    assert abs(size - target) <= 0.1 * target
    width = BASELINES[kind][1]
    for other in (getattr(matched, width) - 1, getattr(matched, width) + 1):
        neighbour = matched.model_copy(update={width: other})
        if other > 0:
            assert abs(parameter_count(neighbour.build()) - target) >= abs(size - target)


def test_an_unknown_baseline():
    with pytest.raises(InputError, match="there is no baseline 'cnn'; there are softmax-attention"):
        matched_baseline("cnn", SelectiveSSMConfig(vocab_size=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 10])
def test_logits(kind, n_classes):
    model = configs(n_classes=n_classes)[kind].build()
    logits = model(torch.randint(16, (3, 9), dtype=torch.int32))
    assert logits.shape == ((3,) if n_classes == 2 else (3, 10))
    assert model(torch.zeros(0, 9, dtype=torch.int32)).shape[0] == 0
    assert model(torch.zeros(2, 1, dtype=torch.int32)).shape[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values_come_from_the_generator_alone(kind):
    config = configs()[kind]
    first, second, other = (
        config.build(torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 10])
def test_replicas_are_what_each_model_is_alone(kind, n_classes):
    config = configs(n_classes=n_classes)[kind]
    models = [config.build().double() for _ in range(3)]
    tokens = torch.randint(16, (3, 4, 17))
    replicas = Replicas(models)
    logits = replicas.logits(tokens)
    expected = torch.stack([model(t) for model, t in zip(models, tokens, strict=True)])
    torch.testing.assert_close(logits, expected)
    gradient = replicas.gradient(logits.square().flatten(1).sum(1))
    for row, model, own in zip(gradient, models, expected, strict=True):
        alone = torch.autograd.grad(own.square().sum(), list(model.parameters()))
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in alone]))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_disk(kind, tmp_path):
    model = configs()[kind].build()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    tokens = torch.randint(16, (2, 9))
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize("kind", [*KINDS, "mamba-lm"])
def test_configurations_by_kind(kind):
    config = model_config({"kind": kind, "vocab_size": 9})
    assert config.kind == kind
    assert model_config(config.model_dump()) == config
    with pytest.raises(InputError, match="vocab_size is 0"):
        model_config({"kind": kind, "vocab_size": 0})


@pytest.mark.parametrize("kind", KINDS)
def test_learns_majority(kind):
    task = get_task("majority", seq_len=20, flip_probability=0.0, data_seed=1)
    train_split, test_split = task.train_and_test()
    model = configs(vocab_size=2)[kind].build(torch.Generator().manual_seed(0))
    recipe = Recipe(epochs=8, batch_size=64, learning_rate=1e-2)
    [result] = train([model], [train_split], recipe, [0])
    model.load_state_dict(result.weights)
    assert result.divergence is None
    assert accuracy(model, test_split) > 0.85
