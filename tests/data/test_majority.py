"""Majority: the reference split, what it must hold, and the checkpoint that was trained on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keelback.data import get_task
from keelback.errors import InputError
from keelback.scan import selective_scan

SHARED = Path(__file__).parents[3] / "shared"
CHECKPOINT = SHARED / "reference/checkpoints/majority_T100_seed1.pth"


def by_the_recipe(seed, n_train, n_test, seq_len):
    """The published recipe, statement by statement, with NumPy's global legacy generator."""
    np.random.seed(seed)

    def rows(n):
        strings, labels = [], []
        for k in np.random.randint(0, seq_len + 1, size=n):
            row = np.array([1] * k + [0] * (seq_len - k))
            np.random.shuffle(row)
            strings.append(row)
            labels.append(int(k > seq_len / 2))
        return np.array(strings), np.array(labels)

    train, train_labels = rows(n_train)
    test, test_labels = rows(n_test)
    mask = (np.random.rand(n_train, seq_len) < 0.25) & (train == 1)
    train[mask] = 0
    return train, train_labels, test, test_labels


@given(
    seed=st.integers(0, 2**32 - 1),
    n_train=st.integers(1, 8),
    n_test=st.integers(1, 8),
    seq_len=st.integers(1, 40),
)
def test_follows_the_recipe_bit_for_bit(seed, n_train, n_test, seq_len):
    task = get_task("majority", seq_len=seq_len, n_train=n_train, n_test=n_test, data_seed=seed)
    train, test = task.train_and_test()
    expected = by_the_recipe(seed, n_train, n_test, seq_len)
    for ours, theirs in zip(
        (train.tokens, train.labels, test.tokens, test.labels), expected, strict=True
    ):
        assert np.array_equal(ours.numpy(), theirs)


def test_only_training_ones_are_flipped():
    noisy = get_task("majority", seq_len=200, data_seed=3)
    clean = get_task("majority", seq_len=200, data_seed=3, flip_probability=0.0)
    assert torch.equal(noisy.split("test").tokens, clean.split("test").tokens)
    before, after = clean.split("train"), noisy.split("train")
    assert torch.equal(before.labels, after.labels)
    assert bool((after.tokens <= before.tokens).all())
    kept = after.tokens.sum() / before.tokens.sum()
    assert abs(float(kept) - 0.75) < 0.01
    assert torch.equal(before.labels, (before.tokens.sum(1) > 100).long())


def test_the_number_of_ones_is_uniform():
    counts = get_task("majority", seq_len=9, n_test=20_000).split("test").tokens.sum(1)
    shares = torch.bincount(counts, minlength=10) / 20_000
    assert float((shares - 0.1).abs().max()) < 0.01


def test_length_one():
    split = get_task("majority", seq_len=1, n_test=50).split("test")
    assert torch.equal(split.tokens[:, 0].long(), split.labels)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "seq_len is missing"),
        ({"seq_len": 0}, "seq_len is 0"),
        ({"seq_len": 10, "data_seed": -1}, "data_seed is -1"),
        ({"seq_len": 10, "flip_probability": 1.5}, "flip_probability is 1.5"),
        ({"seq_len": 10, "tokenizer": "vocab.txt"}, "no setting tokenizer"),
    ],
)
def test_wrong_settings_are_named(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        get_task("majority", **settings)


def binary_logits(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The single block and its binary head, from the equations."""
    u = state["embedding.weight"][tokens]
    block = {name.removeprefix("SSM.ssm."): value for name, value in state.items()}
    delta = torch.nn.functional.softplus(u @ block["q_delta"] + block["p_delta"])
    B, C = u @ block["W_B"].mT, u @ block["W_C"].mT
    y = selective_scan(u, delta[..., None], block["A"], B[:, :, None], C[:, :, None])
    assert isinstance(y, Tensor)
    return y[:, -1] @ state["SSM.w"]


@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no reference data here")
def test_the_reference_checkpoint_scores_what_it_should():
    state = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")
    train, test = get_task("majority", seq_len=100, data_seed=1).train_and_test()
    for split, published in ((train, 0.967), (test, 0.883)):
        predicted = binary_logits(state, split.tokens) > 0
        assert float((predicted == split.labels).double().mean()) == pytest.approx(published)
