"""The training loop: replicas as if alone, determinism, divergence, and PyTorch as the oracle."""

import math

import pytest
import torch
import torch.nn.functional as F

from keelback.data import Split, get_task
from keelback.models import SelectiveClassifier, SelectiveSSMConfig
from keelback.training import Recipe, TrainingResult, accuracy, epoch_order, train

RECIPE = Recipe(epochs=3, batch_size=16)


def make_model(seed: int, abscissa: float = 0.0) -> SelectiveClassifier:
    config = SelectiveSSMConfig(vocab_size=2, spectral_abscissa=abscissa)
    return config.build(torch.Generator().manual_seed(seed))


def make_split(seed: int, seq_len: int = 12) -> Split:
    return get_task("majority", seq_len=seq_len, n_train=72, n_test=40, data_seed=seed).split(
        "train"
    )


def run(seeds: list[int], abscissas: list[float] | None = None) -> list[TrainingResult]:
    abscissas = abscissas or [0.0] * len(seeds)
    models = [make_model(seed, s_A) for seed, s_A in zip(seeds, abscissas, strict=True)]
    return train(models, [make_split(seed) for seed in seeds], RECIPE, seeds)


def losses(result: TrainingResult) -> list[float]:
    return [float(row["loss"] or math.nan) for row in result.history[1:]]


def test_replicas_have_the_numbers_that_they_have_alone() -> None:
    together = run([1, 2, 3])
    for seed, result in zip([1, 2, 3], together, strict=True):
        [alone] = run([seed])
        assert losses(result) == pytest.approx(losses(alone), rel=1e-6)
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(result.weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = run([4])[0], run([4])[0]
    assert one.history == two.history
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_a_plain_loop_of_pytorchs_parts_trains_the_same_model() -> None:
    model, split = make_model(7), make_split(7)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, factor=0.9, patience=5, threshold=0.01
    )
    means = []
    for epoch in range(1, 4):
        total = 0.0
        for index in epoch_order(7, epoch, len(split)).split(16):
            logits = model(split.tokens[index])
            loss = F.binary_cross_entropy_with_logits(logits, split.labels[index].float())
            loss = loss + 10 * F.relu(0.1 - torch.sigmoid(logits).std())
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            adam.step()
            total += loss.item() * len(index)
        means.append(total / len(split))
        schedule.step(means[-1])
    [ours] = run([7])
    assert losses(ours) == pytest.approx(means, rel=1e-5)


def test_examples_that_replicas_share_are_not_copied_and_change_nothing() -> None:
    shared = make_split(0)
    models = [make_model(1), make_model(2)]
    together = train(models, [shared, shared], RECIPE, [1, 2])
    apart = train([make_model(1), make_model(2)], [make_split(0), make_split(0)], RECIPE, [1, 2])
    assert [losses(r) for r in together] == [losses(r) for r in apart]


def test_divergence_is_recorded_and_the_other_replicas_go_on() -> None:
    results = run([1, 2, 3], [0.0, 60.0, 0.0])
    dead = results[1].divergence
    assert dead is not None
    assert (dead.epoch, dead.step, dead.tensor) == (1, 1, "y")
    assert all(torch.isfinite(tensor).all() for tensor in results[1].weights.values())
    assert len(results[1].history) == 2
    assert results[1].history[-1]["loss"] is None
    for survivor, seed in ((results[0], 1), (results[2], 3)):
        assert survivor.divergence is None
        assert losses(survivor) == pytest.approx(losses(run([seed])[0]), rel=1e-6)


def test_the_dead_leave_the_batch_and_the_living_keep_their_numbers() -> None:
    """Replicas that die first, in the middle and last, in one batch with two that do not."""
    abscissas = [60.0, 0.0, 60.0, 0.0, 60.0]
    seen: list[tuple[int, int]] = []
    models = [make_model(seed, s_A) for seed, s_A in enumerate(abscissas)]
    splits = [make_split(seed) for seed in range(5)]
    results = train(models, splits, RECIPE, range(5), on_epoch=lambda *x: seen.append(x))
    assert seen == [(1, 2), (2, 2), (3, 2)]
    assert [r.divergence is not None for r in results] == [True, False, True, False, True]
    assert [len(r.history) for r in results] == [2, 4, 2, 4, 2]
    for seed in (1, 3):
        [alone] = run([seed])
        assert losses(results[seed]) == pytest.approx(losses(alone), rel=1e-6)
        for name, tensor in alone.weights.items():
            torch.testing.assert_close(results[seed].weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_each_replica_stops_early_by_its_own_loss() -> None:
    recipe = Recipe(epochs=6, batch_size=16, early_stop=1, plateau_threshold=0.05)
    models = [make_model(seed) for seed in range(4)]
    splits = [make_split(seed) for seed in range(4)]
    results = train(models, splits, recipe, range(4))
    assert len({len(result.history) for result in results}) > 1
    for seed, result in enumerate(results):
        means = losses(result)
        fell = [now < 0.95 * min(means[:i], default=math.inf) for i, now in enumerate(means)]
        assert result.divergence is None
        assert all(fell[:-1])
        assert len(means) == 6 or not fell[-1]
        [alone] = train([make_model(seed)], [make_split(seed)], recipe, [seed])
        assert losses(alone) == pytest.approx(means, rel=1e-4)


def with_a_large_gradient(seed: int, embedding: float) -> SelectiveClassifier:
    """A model whose logits are moderate, and the embedding's gradient about 1e75 embedding^2."""
    model = make_model(seed)
    with torch.no_grad():
        model.embedding.fill_(embedding)
        model.ssm.W_B.fill_(3e37)
        model.ssm.W_C.fill_(3e37)
    return model


def test_a_divergence_in_the_gradient_is_named() -> None:
    [result] = train([with_a_large_gradient(1, 1e-18)], [make_split(1)], RECIPE, [1])
    assert result.divergence is not None
    assert result.divergence.tensor.startswith("gradient of ")


def test_a_gradient_whose_norm_overflows_is_clipped_to_zero_as_by_pytorch() -> None:
    model, split = with_a_large_gradient(1, 1e-25), make_split(1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
    norms = []
    for index in epoch_order(1, 1, len(split)).split(16):
        logits = model(split.tokens[index])
        loss = F.binary_cross_entropy_with_logits(logits, split.labels[index].float())
        loss = loss + 10 * F.relu(0.1 - torch.sigmoid(logits).std())
        adam.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0).item())
        adam.step()
    overflowed = [norm for norm in norms if math.isinf(norm)]
    recipe = RECIPE.model_copy(update={"epochs": 1})
    large, small = train(
        [with_a_large_gradient(1, 1e-25), make_model(2)], [split, make_split(2)], recipe, [1, 2]
    )
    assert large.divergence is None
    assert large.history[1]["zeroed_steps"] == len(overflowed) > 0
    assert small.history[1]["zeroed_steps"] == 0
    assert math.isfinite(float(large.history[1]["gradient_norm"] or 0.0))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(large.weights[name], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_a_norm_in_float64_clips_the_gradient_that_overflows_one_in_float32() -> None:
    recipe = Recipe(epochs=1, batch_size=72, norm_precision="float64")
    model, split = with_a_large_gradient(1, 1e-25), make_split(1)
    [result] = train([model], [split], recipe, [1])
    assert result.divergence is None
    assert result.history[1]["zeroed_steps"] == 0
    assert 1e19 < float(result.history[1]["gradient_norm"] or 0.0) < math.inf
    assert not torch.allclose(result.weights["embedding"], model.embedding, atol=9e-3)


def test_every_epoch_logs_what_the_theory_speaks_of() -> None:
    [result] = run([1])
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3]
    wanted = {
        "loss", "running_accuracy", "gradient_norm", "learning_rate", "s_A", "B_u", "B_q", "B_B",
        "B_C", "B_w", "delta_min", "delta_max", "delta_lower", "delta_upper", "growth", "rho",
    }  # fmt: skip
    assert wanted <= result.history[-1].keys()
    last = result.history[-1]
    assert last["delta_lower"] <= last["delta_min"] <= last["delta_max"] <= last["delta_upper"]  # type: ignore[operator]


def test_accuracy_counts_what_the_model_gets_right() -> None:
    split = make_split(3)
    model = make_model(3)
    by_hand = ((model(split.tokens) > 0).long() == split.labels).float().mean().item()
    assert accuracy(model, split, batch_size=7) == pytest.approx(by_hand)


def test_one_token_sequences_train() -> None:
    [result] = train([make_model(1)], [make_split(1, seq_len=1)], RECIPE, [1])
    assert result.divergence is None


def test_no_epochs_leave_the_model_as_it_was() -> None:
    model = make_model(1)
    [result] = train([model], [make_split(1)], Recipe(epochs=0), [1])
    assert torch.equal(result.weights["embedding"], model.embedding)


def test_stable_replicas_with_many_classes_train_as_alone() -> None:
    config = SelectiveSSMConfig(
        vocab_size=16, n_classes=10, spectral_abscissa=-0.1, parametrisation="stable"
    )
    models = [config.build(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(16, (40, 9), generator=generator, dtype=torch.int32)
    split = Split(tokens, torch.randint(10, (40,), generator=generator), torch.full((40,), 9))
    together = train(models, [split, split], RECIPE, [1, 2])
    for seed, result in zip((1, 2), together, strict=True):
        model = config.build(torch.Generator().manual_seed(seed))
        [alone] = train([model], [split], RECIPE, [seed])
        assert losses(result) == pytest.approx(losses(alone), rel=1e-6)


def test_a_model_without_a_replica_axis_trains_as_alone() -> None:
    """A vocabulary too large to tabulate goes through `vmap`."""
    config = SelectiveSSMConfig(vocab_size=100)
    together = train(
        [config.build(torch.Generator().manual_seed(seed)) for seed in (1, 2)],
        [make_split(1), make_split(2)],
        RECIPE,
        [1, 2],
    )
    for seed, result in zip((1, 2), together, strict=True):
        model = config.build(torch.Generator().manual_seed(seed))
        [alone] = train([model], [make_split(seed)], RECIPE, [seed])
        assert losses(result) == pytest.approx(losses(alone), rel=1e-6)
