"""The gated norm of the stand-in for mamba_ssm."""

import importlib
import sys
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.integrations import provide_mamba_ssm
from keelback.integrations._mamba_ssm_norm import RMSNorm, rmsnorm_fn

NAME = "mamba_ssm.ops.triton.layernorm_gated"


def defined(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    group_size: int,
    norm_before_gate: bool,
) -> Tensor:
    """In plain PyTorch, group by group."""
    value = x.double()
    if z is not None and not norm_before_gate:
        value = value * F.silu(z.double())
    groups = [
        one / (one.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for one in value.split(group_size, dim=-1)
    ]
    y = torch.cat(groups, dim=-1) * weight.double()
    y = y if bias is None else y + bias.double()
    return y * F.silu(z.double()) if z is not None and norm_before_gate else y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("biased", "gated", "norm_before_gate"), list(product([False, True], repeat=3))
)
def test_it_is_the_definition(
    biased: bool, gated: bool, norm_before_gate: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    x, z = normal(3, 4, 24), normal(3, 4, 24) if gated else None
    weight = normal(24, dtype=torch.float32)  # As a layer's, whatever its inputs are.
    bias = normal(24, dtype=torch.float32) if biased else None
    y = rmsnorm_fn(x, weight, bias, z, 1e-6, 8, norm_before_gate)
    assert y.dtype == dtype
    expected = defined(x, weight, bias, z, 8, norm_before_gate)
    near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=near, atol=near)


def test_the_layer_has_its_parameters_and_computes_the_same() -> None:
    layer = RMSNorm(24, eps=1e-6, group_size=8, norm_before_gate=False, dtype=torch.bfloat16)
    assert {name: x.dtype for name, x in layer.state_dict().items()} == {"weight": torch.bfloat16}
    assert layer.weight.eq(1).all()
    x, z = torch.randn(2, 5, 24, dtype=torch.bfloat16)
    expected = rmsnorm_fn(x, layer.weight, None, z, 1e-6, 8, False)
    assert torch.equal(layer(x, z), expected)
    assert layer(x).shape == x.shape


@pytest.mark.skipif(find_spec("mamba_ssm") is not None, reason="mamba_ssm is installed")
def test_code_that_imports_it_gets_keelbacks() -> None:
    with provide_mamba_ssm():
        module = importlib.import_module(NAME)
        assert module.rmsnorm_fn is rmsnorm_fn
        assert module.RMSNorm is RMSNorm
    assert NAME not in sys.modules


def test_of_an_installed_package_the_function_alone_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed: dict[str, Any] = {}
    names = NAME.split(".")
    for end in range(1, len(names) + 1):
        name = ".".join(names[:end])
        installed[name] = ModuleType(name)
        installed[name].__path__ = []
        monkeypatch.setitem(sys.modules, name, installed[name])
    theirs, layer = object(), object()
    installed[NAME].rmsnorm_fn, installed[NAME].RMSNorm = theirs, layer
    with provide_mamba_ssm() as provided:
        assert f"{NAME}.rmsnorm_fn" in provided.names
        assert installed[NAME].rmsnorm_fn is rmsnorm_fn
        assert installed[NAME].RMSNorm is layer
    assert installed[NAME].rmsnorm_fn is theirs
