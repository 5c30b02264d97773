"""The kernels, compiled for the host, beside the norms of transformers whose place they take."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from norm_host import COMPILER, by_kernels, on_host
from torch import Tensor

from keelback.integrations import _norms
from keelback.integrations._norm_forms import form_of
from keelback.norm._operands import NormOperands

sys.path.insert(0, str(Path(__file__).parents[1] / "integrations"))

transformers = pytest.importorskip("transformers")
from norms_of_transformers import (  # noqa: E402
    inputs_of,
    known_norms,
    make_layer,
    results_of,
)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

NORMS = known_norms()
#: A class for each way in which theirs round, gate and cut into groups.
LIKE_MANY = (
    "mamba2.modeling_mamba2.Mamba2RMSNorm",
    "mamba2.modeling_mamba2.MambaRMSNormGated",
    "falcon_h1.modeling_falcon_h1.FalconH1RMSNormGated",
    "qwen3_next.modeling_qwen3_next.Qwen3NextRMSNormGated",
    "kimi_linear.modeling_kimi_linear.KimiLinearRMSNormGated",
)
WAYS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "bfloat16, weight in float32": (torch.bfloat16, torch.float32),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("short", LIKE_MANY)
def test_output_and_gradients_are_theirs(
    short: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, (dtype, own) = f"transformers.models.{short}", WAYS[way]
    if name not in NORMS:
        pytest.skip(f"{name}: transformers {transformers.__version__} builds it otherwise")
    on_host(monkeypatch.setattr)
    monkeypatch.setattr(_norms, "_FASTER", {"cpu": (dtype,)})
    monkeypatch.setattr(_norms, "_FASTER_FROM", (0, 0))
    kind: Any = NORMS[name]
    layer: Any = make_layer(kind, own)
    inputs = inputs_of(kind, dtype)
    form = form_of(getattr(kind.forward, "_keelback_theirs", kind.forward))
    assert form is not None
    operands = NormOperands(inputs[0], inputs[1] if form.gated else None, layer.weight.detach())
    options = _norms._options(layer, form, operands.x, operands.gate)
    assert options is not None
    y, *theirs = results_of(layer, inputs)
    generator = torch.Generator().manual_seed(2)
    dy = torch.randn(y.shape, generator=generator).to(y.dtype)
    found, gradients = by_kernels(operands, dy, options)
    assert found.dtype == y.dtype
    require_near(found, y, dtype)
    ours = [x for x in gradients if x is not None]
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        size = float(other.float().norm())
        allowed = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
        assert float((one.float() - other.float()).norm()) < allowed * size


def require_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """In float32 to 1e-5; in half precision nearly always the same number, and else as near as
    where the normalised number was rounded to a neighbour."""
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        return
    assert float((found == expected).float().mean()) > 0.98
    apart = (found.double() - expected.double()).abs()
    assert bool((apart <= 2 * torch.finfo(dtype).eps * expected.double().abs()).all())
