"""The switched scan against its definition, and its gradients against autograd's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.errors import InputError
from keelback.scan import switched_scan


def by_definition(tokens: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
    h = (0 * (decay + drive)[0]).repeat(len(tokens), 1)
    for token in tokens.T.long():
        h = decay[token] * h + drive[token]
    return h


def operands(
    seed: int, rows: int, length: int, vocab: int, states: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab, (rows, length), generator=generator, dtype=torch.int32)
    decay = torch.rand(vocab, states, generator=generator, dtype=dtype) * 1.1
    drive = torch.randn(vocab, states, generator=generator, dtype=dtype)
    return tokens, decay.requires_grad_(), drive.requires_grad_()


shapes = st.tuples(
    st.integers(0, 70), st.integers(0, 40), st.integers(1, 20), st.sampled_from([1, 5, 16, 40])
)


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(0, 10_000))
def test_states_and_gradients_are_those_of_the_definition(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    tokens, decay, drive = operands(seed, *shape)
    ours, expected = switched_scan(tokens, decay, drive), by_definition(tokens, decay, drive)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed)).double()
    gradients = torch.autograd.grad((ours * weights).sum(), (decay, drive))
    wanted = torch.autograd.grad(
        (expected * weights).sum(), (decay, drive), allow_unused=True, materialize_grads=True
    )
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_any_integers_are_tokens(dtype: torch.dtype) -> None:
    tokens, decay, drive = operands(0, 3, 9, 4, 6)
    expected = by_definition(tokens, decay, drive)
    torch.testing.assert_close(switched_scan(tokens.to(dtype), decay, drive), expected)


def test_replicas_have_the_bits_that_they_have_alone() -> None:
    systems = [operands(seed, 40, 30, 3, 20, torch.float32) for seed in range(4)]
    tokens, decay, drive = (torch.stack(parts).detach() for parts in zip(*systems, strict=True))
    decay.requires_grad_()
    together = switched_scan(tokens, decay, drive)
    [gradient] = torch.autograd.grad(together.square().sum(), decay)
    for i, (own_tokens, own_decay, own_drive) in enumerate(systems):
        alone = switched_scan(own_tokens, own_decay, own_drive)
        assert torch.equal(together[i], alone)
        [own] = torch.autograd.grad(alone.square().sum(), own_decay)
        assert torch.equal(gradient[i], own)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    tokens, decay, drive = operands(2, 256, 200, 2, 32, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            last = switched_scan(tokens, decay, drive)
            results.append((last, *torch.autograd.grad(last.sin().sum(), (decay, drive))))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_overflow_gives_what_the_arithmetic_gives() -> None:
    tokens = torch.zeros(1, 300, dtype=torch.int32)
    last = switched_scan(tokens, torch.tensor([[3.0, 0.5]]), torch.tensor([[1.0, 1.0]]))
    assert last.tolist() == [[torch.inf, 2.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.tensor([[0, 3]])}, "1 tokens are not in 0, ..., 2"),
        ({"tokens": torch.tensor([[-1, 0]])}, "1 tokens are not in"),
        ({"tokens": torch.tensor([0])}, r"tokens has shape \(1,\)"),
        ({"tokens": torch.zeros(2, 1, 1).int()}, r"decay has shape \(3, 4\); it should be \(2, "),
        ({"drive": torch.zeros(2, 4)}, "drive has shape"),
        ({"drive": torch.zeros(3, 4).double()}, "drive has dtype"),
        ({"decay": torch.zeros(3, 4).half()}, "decay has dtype"),
        ({"decay": torch.zeros(3, 4, device="meta")}, "runs on the CPU"),
    ],
)
def test_wrong_operands_are_named(change: dict[str, Tensor], message: str) -> None:
    right = {
        "tokens": torch.tensor([[0, 1]]), "decay": torch.zeros(3, 4), "drive": torch.zeros(3, 4)
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        switched_scan(**(right | change))
