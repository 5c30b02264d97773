"""The forms that are meant for a GPU, held against the plain ones on the CPU."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from keelback.models._embedding import look_up, look_up_by_parts
from keelback.models._projection import project, project_by_sequence

GENERATOR = torch.Generator().manual_seed(0)


def padded_tokens(*shape: int, vocabulary: int = 50) -> Tensor:
    """Token ids of which the later half of each sequence is padding, as int32."""
    tokens = torch.randint(vocabulary, shape, generator=GENERATOR, dtype=torch.int32)
    tokens[..., shape[-1] // 2 :] = 0
    return tokens


def gradients(tokens: Tensor, vectors: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The output and a gradient that weighs every entry of it differently."""
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    [gradient] = torch.autograd.grad((weights * found).sum(), [vectors])
    return found.detach(), gradient


@pytest.mark.parametrize("shape", [(3, 8), (1, 1), (5, 1), (0, 4)])
def test_looking_up_by_parts_is_looking_up(shape: tuple[int, int]) -> None:
    tokens = padded_tokens(*shape)
    vectors = torch.randn(50, 6, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    plain = gradients(tokens, vectors, F.embedding(tokens, vectors))
    ours = gradients(tokens, vectors, look_up_by_parts(tokens, vectors))
    for expected, value in zip(plain, ours, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("content", ["padding", "text"])
def test_sequences_of_nothing_but_padding_and_without_any(content: str) -> None:
    tokens = torch.zeros(2, 5, dtype=torch.int32)
    if content == "text":
        tokens += torch.arange(1, 6, dtype=torch.int32)
    vectors = torch.randn(9, 3, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    plain = gradients(tokens, vectors, F.embedding(tokens, vectors))
    ours = gradients(tokens, vectors, look_up_by_parts(tokens, vectors))
    for expected, value in zip(plain, ours, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("shared", [False, True], ids=["own tokens", "shared tokens"])
def test_replicas_look_up_by_parts_in_their_own_tables(shared: bool) -> None:
    tokens = padded_tokens(3, 8) if shared else padded_tokens(4, 3, 8)
    tables = torch.randn(4, 50, 6, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    together = vmap(look_up_by_parts, in_dims=(None if shared else 0, 0))(tokens, tables)
    apart = torch.stack([F.embedding(tokens if shared else tokens[r], tables[r]) for r in range(4)])
    plain, ours = gradients(tokens, tables, apart), gradients(tokens, tables, together)
    for expected, value in zip(plain, ours, strict=True):
        torch.testing.assert_close(value, expected)


def test_a_cpu_looks_up_plainly() -> None:
    vectors = torch.randn(2000, 2, requires_grad=True)
    assert "Embedding" in type(look_up(padded_tokens(2, 4), vectors).grad_fn).__name__


@pytest.mark.parametrize("form", [project, project_by_sequence])
def test_a_projection_is_a_product(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    u = torch.randn(3, 7, 5, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 5, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(form(u, weight), torch.einsum("btd,nd->btn", u, weight))
    assert torch.autograd.gradcheck(form, (u, weight))
