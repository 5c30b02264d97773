"""transformers' Mamba layers through our scan: the same numbers, and everything put back."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from keelback.audit import audit
from keelback.audit._kernels import fast_scans

FAMILIES = {
    "mamba_selective_scan": ("mamba", "falcon-mamba", "jamba", "zamba"),
    "mamba2_chunk_scan": (
        "mamba2",
        "bamba",
        "zamba2",
        "nemotron-h",
        "falcon-h1",
        "granite-moe-hybrid",
    ),
}


@pytest.mark.parametrize(("scan", "family"), [(s, f) for s, own in FAMILIES.items() for f in own])
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_same_logits(
    tiny_model: Callable[[str], Any], tokens: torch.Tensor, scan: str, family: str, use_cache: bool
) -> None:
    model = tiny_model(family)
    module = sys.modules[type(model).__module__]
    own = getattr(module, scan)
    with torch.no_grad():
        slow = model(tokens, use_cache=use_cache)
        with fast_scans(model):
            assert getattr(module, scan) is not own
            fast = model(tokens, use_cache=use_cache)
    assert getattr(module, scan) is own
    assert torch.allclose(slow.logits, fast.logits, atol=1e-5)


def test_half_precision_is_no_less_exact(
    tiny_model: Callable[[str], Any], tokens: torch.Tensor
) -> None:
    full = tiny_model("mamba")
    half = type(full)(full.config).eval()
    half.load_state_dict(full.state_dict())
    half.to(torch.bfloat16)
    with torch.no_grad():
        exact, slow = full(tokens).logits, half(tokens).logits
        with fast_scans(half):
            fast = half(tokens).logits
    assert fast.dtype == slow.dtype
    assert (fast - exact).abs().mean() < 1.2 * (slow - exact).abs().mean()


def test_an_error_inside_still_puts_back(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("mamba")
    module = sys.modules[type(model).__module__]
    own = module.mamba_selective_scan
    with pytest.raises(KeyError), fast_scans(model):
        raise KeyError
    assert module.mamba_selective_scan is own


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mamba", "mamba_selective_scan"),
        ("bamba", "mamba2_chunk_scan"),
        ("mamba2", "causal_conv1d_fn"),
    ],
)
def test_a_function_of_someone_elses_is_not_hidden(
    tiny_model: Callable[[str], Any],
    tokens: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    name: str,
) -> None:
    """A model that scans or convolves otherwise is run as it is, and so found out."""
    model = tiny_model(family)
    module = sys.modules[type(model).__module__]
    own = getattr(module, name)

    @functools.wraps(own)
    def changed(*operands: Any, **options: Any) -> Any:
        found = own(*operands, **options)
        y, *more = found if isinstance(found, tuple) else (found,)
        fading = torch.linspace(1.5, 0.5, y.shape[1]).view(-1, *[1] * (y.ndim - 2))
        return (y * fading, *more) if more else y * fading

    monkeypatch.setattr(module, name, changed)
    with fast_scans(model):
        assert getattr(module, name) is changed
    result = audit(model, tokens[0], train_length=10, length=20)
    assert not result.measures
    reasons = [missed.reason for missed in result.not_audited if "." in missed.what]  # no classes
    assert len(reasons) == 2
    assert all("does not give the layer's own result" in reason for reason in reasons)
