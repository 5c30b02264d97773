"""The loss of the recipe against PyTorch's losses and the collapse penalty by hand."""

import pytest
import torch
import torch.nn.functional as F

from keelback.training import Recipe, correct, error_rate, wrong
from keelback.training.recipe import replica_losses


def test_binary_loss_is_bce_plus_the_penalty() -> None:
    logits = torch.tensor([[0.1, -0.2, 0.3], [4.0, -4.0, 4.0]], dtype=torch.float64)
    labels = torch.tensor([[1, 0, 0], [1, 0, 0]])
    losses = replica_losses(logits, labels, Recipe())
    for row, label, loss in zip(logits, labels, losses, strict=True):
        spread = torch.sigmoid(row).std()
        expected = F.binary_cross_entropy_with_logits(row, label.double())
        expected = expected + 10 * max(0.0, 0.1 - float(spread))
        torch.testing.assert_close(loss, expected)
    assert float(torch.sigmoid(logits[0]).std()) < 0.1 < float(torch.sigmoid(logits[1]).std())


def test_multiclass_loss_is_cross_entropy_plus_the_penalty() -> None:
    logits = torch.randn(2, 5, 10, dtype=torch.float64) * 0.01
    labels = torch.randint(10, (2, 5))
    losses = replica_losses(logits, labels, Recipe())
    for row, label, loss in zip(logits, labels, losses, strict=True):
        expected = F.cross_entropy(row, label) + 10 * (0.1 - torch.sigmoid(row).std())
        torch.testing.assert_close(loss, expected)


def test_one_example_has_no_spread_and_no_penalty() -> None:
    loss = replica_losses(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long), Recipe())
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)


def test_decisions() -> None:
    assert correct(torch.tensor([0.5, -0.5, torch.nan]), torch.tensor([1, 1, 1])).tolist() == [
        1,
        0,
        0,
    ]
    assert correct(torch.eye(3)[None], torch.tensor([[0, 1, 1]])).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("classes", [(), (3,)])
def test_what_is_not_correct_is_wrong(classes: tuple[int, ...]) -> None:
    logits = torch.randn(2, 50, *classes)
    logits[0, :5] = torch.nan
    labels = torch.randint(2, (2, 50))
    expected = correct(logits, labels) == 0
    expected[0, :5] = True
    assert torch.equal(wrong(logits, labels), expected)
    assert error_rate(logits, labels) == pytest.approx(float(expected.double().mean()), abs=1e-12)
    assert 0.2 < error_rate(logits, labels) < 0.9


def test_an_error_rate_by_hand() -> None:
    assert error_rate(torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([1, 1, 0, 0])) == 0.5
