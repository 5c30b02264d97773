"""The inside of a Mamba block as one step of autograd, against the same in plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from keelback.errors import InputError
from keelback.scan import mamba_inner, selective_scan


def operands(
    batch: int = 2,
    length: int = 21,
    channels: int = 10,
    state: int = 4,
    rank: int = 3,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    return [
        *normal(batch, length, 2 * channels).chunk(2, dim=-1),
        normal(channels, 4),
        normal(channels),
        normal(rank + 2 * state, channels) / channels**0.5,
        normal(channels, rank),
        -normal(channels, state).abs(),
        normal(channels),
        normal(channels) - 2,
    ]


def plain(
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    W_x: Tensor,
    W_delta: Tensor,
    A: Tensor,
    D: Tensor,
    delta_bias: Tensor,
) -> Tensor:
    padded = F.pad(x.mT, (conv_weight.shape[1] - 1, 0))
    convolved = F.conv1d(padded, conv_weight[:, None], conv_bias, groups=x.shape[-1])
    u = F.silu(convolved).mT
    low, B, C = (u @ W_x.mT).split([W_delta.shape[1], A.shape[1], A.shape[1]], dim=-1)
    delta = F.softplus(low @ W_delta.mT + delta_bias)
    y = selective_scan(u, delta, A, B[:, :, None], C[:, :, None], D, backend="reference")
    assert isinstance(y, Tensor)
    return y * F.silu(z)


def leaves() -> list[Tensor]:
    return [one.detach().requires_grad_() for one in operands()]


def kept_bytes(call) -> int:
    kept = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(kept.values())


def test_output_and_gradients() -> None:
    given = leaves()
    y, expected = mamba_inner(*given), plain(*given)
    torch.testing.assert_close(y, expected)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(y, given, dy)
    for one, other in zip(found, torch.autograd.grad(expected, given, dy), strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck() -> None:
    given = [one.detach().requires_grad_() for one in operands(1, 5, 3, 2, 2)]
    assert torch.autograd.gradcheck(mamba_inner, given)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("length", [0, 1])
def test_one_step_and_nothing(batch: int, length: int) -> None:
    given = [one.detach().requires_grad_() for one in operands(batch, length)]
    y = mamba_inner(*given)
    assert y.shape == (batch, length, 10)
    found = torch.autograd.grad(y.sum(), given)
    assert [one.shape for one in found] == [one.shape for one in given]
    assert all(one.isfinite().all() for one in found)


def test_without_gradients_it_is_the_same() -> None:
    with torch.no_grad():
        torch.testing.assert_close(mamba_inner(*operands()), plain(*operands()))


def test_what_it_computes_again_is_not_kept() -> None:
    given = [one.detach().requires_grad_() for one in operands(4, 200, 64)]
    of_one_tensor = 4 * 200 * 64 * 8
    fused = kept_bytes(lambda: mamba_inner(*given))
    assert fused < 3 * of_one_tensor  # x and z, and what is small
    assert kept_bytes(lambda: plain(*given)) > 5 * of_one_tensor


def test_many_models_at_once() -> None:
    stacked = [torch.stack([one, 0.9 * one, 1.1 * one]) for one in operands()]

    def loss(function):
        return lambda *given: (function(*given) ** 2).sum()

    positions = tuple(range(len(stacked)))
    found = vmap(grad(loss(mamba_inner), argnums=positions))(*stacked)
    for r in range(3):
        expected = grad(loss(plain), argnums=positions)(*(one[r] for one in stacked))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[r], other)


def test_under_compile_and_autocast() -> None:
    given = [one.detach().float().requires_grad_() for one in operands()]
    compiled = torch.compile(mamba_inner, backend="aot_eager")(*given)
    torch.testing.assert_close(compiled, plain(*given))
    with torch.autocast("cpu", torch.bfloat16):
        y = mamba_inner(*given)
    assert y.isfinite().all()
    assert float((y - compiled).detach().norm() / compiled.detach().norm()) < 0.05


def test_what_does_not_fit_is_refused() -> None:
    given = leaves()
    given[6] = given[6][:-1]
    with pytest.raises(InputError, match="A has shape"):
        mamba_inner(*given)
    given = leaves()
    given[2] = given[2][:-1]
    with pytest.raises(InputError, match="conv_weight has shape"):
        mamba_inner(*given)
