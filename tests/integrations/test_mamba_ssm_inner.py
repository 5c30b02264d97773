"""`mamba_inner_fn` of the stand-in for mamba_ssm, in both of its ways."""

import torch
import torch.nn.functional as F

from keelback.integrations._mamba_ssm import mamba_inner_fn, selective_scan_ref


def test_with_and_without_norms_it_is_the_layer_in_plain_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, requires_grad=True)

    channels, state, rank = 6, 4, 2
    xz, conv, bias = normal(2, 2 * channels, 15), normal(channels, 1, 4), normal(channels)
    W_x, W_delta = normal(rank + 2 * state, channels), normal(channels, rank)
    W_out, D, delta_bias = normal(8, channels), normal(channels), normal(channels)
    A = -normal(channels, state).detach().abs()
    ones = {f"{name}_rms_weight": torch.ones(state) for name in "bc"}
    for norms in ({}, ones):
        y = mamba_inner_fn(
            xz, conv, bias, W_x, W_delta, W_out, None, A, None, None, D, delta_bias, **norms
        )
        x, z = xz.chunk(2, dim=1)
        u = F.silu(F.conv1d(F.pad(x, (3, 0)), conv, bias, groups=channels))
        low, B, C = F.linear(u.mT, W_x).split([rank, state, state], dim=-1)
        if norms:
            B, C = (F.rms_norm(one, (state,), eps=1e-6) for one in (B, C))
        delta = F.linear(low, W_delta).mT
        scanned = selective_scan_ref(u, delta, A, B.mT, C.mT, D, z, delta_bias, True)
        expected = F.linear(scanned.mT, W_out)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        leaves = [xz, conv, bias, W_x, W_delta, W_out, D, delta_bias]
        found = torch.autograd.grad(y.sum(), leaves)
        for one, other in zip(found, torch.autograd.grad(expected.sum(), leaves), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
