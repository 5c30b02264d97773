"""Operators without kernels of their own on a GPU: in PyTorch's operations, as on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from keelback.delta import generalised_delta_rule
from keelback.recurrence import mlstm
from keelback.ssd import gated_linear_attention, mamba3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ROWS = (2, 150, 4)


def of_mlstm(x: Tensor, gate: Tensor) -> Tensor:
    return mlstm(x, x, x, gate, logsigmoid(gate))[0]


def of_attention(x: Tensor, gate: Tensor) -> Tensor:
    return gated_linear_attention(x, x, x, -gate.exp())


def of_attention_by_channel(x: Tensor, gate: Tensor) -> Tensor:
    return gated_linear_attention(x, x, x, -gate.exp().unsqueeze(-1) * x.abs())


def of_delta_rule(x: Tensor, gate: Tensor) -> Tensor:
    erased = normalize(x, dim=-1)
    decay = logsigmoid(gate).unsqueeze(-1).expand_as(x)
    return generalised_delta_rule(x, x, x, -erased, 0.5 * erased, decay)


def of_mamba3(x: Tensor, gate: Tensor) -> Tensor:
    dt, maps = gate.exp(), x.unsqueeze(3)
    return mamba3(maps, dt, -dt, maps, maps, torch.sigmoid(gate), x[..., :8])[0]


@pytest.mark.parametrize(
    "operator", [of_mlstm, of_attention, of_attention_by_channel, of_delta_rule, of_mamba3]
)
def test_outputs_and_gradients_are_those_on_a_cpu(
    operator: Callable[[Tensor, Tensor], Tensor],
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*ROWS, 16, generator=generator, dtype=torch.float64) / 4
    gate = torch.randn(*ROWS, generator=generator, dtype=torch.float64)
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        leaves = [one.to(device, dtype, copy=True).requires_grad_() for one in (x, gate)]
        y = operator(*leaves)
        y.square().mean().backward()
        results = [y.detach(), *(leaf.grad for leaf in leaves)]
        found.append([one.double().cpu() for one in results if one is not None])
    for exact, one in zip(*found, strict=True):
        size = float(exact.abs().max())
        torch.testing.assert_close(one, exact, rtol=0, atol=1e-4 * size)
