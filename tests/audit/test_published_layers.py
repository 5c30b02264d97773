"""Layers of Mamba-3 and RWKV-7 that others published: proved on their own code where it is there.

torchmamba 0.1.2 runs on a CPU. The kernels of flash-linear-attention (fla) are for GPUs; Triton
interprets them here, without the timings by which it would choose among their sizes.
"""

import os
import subprocess
import sys

import pytest
import torch
from watched import proofs

INTERPRETED = """
import warnings
warnings.simplefilter("ignore")
import triton.runtime.autotuner as autotuner
autotuner.Autotuner._bench = lambda self, *args, config, **options: (0.0, 0.0, 0.0)
import torch
from fla.layers.rwkv7 import RWKV7Attention
from keelback.audit import find_layers, watching

torch.manual_seed(0)
for index, fused in ((0, False), (1, True)):
    low = {f"{name}_low_rank_dim": 8 for name in ("decay", "gate", "a", "v")}
    layer = RWKV7Attention(
        hidden_size=32, head_dim=16, layer_idx=index, num_hidden_layers=2, fuse_norm=fused, **low
    ).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = []
    x, first = torch.randn(2, 1, 5, 32)
    mask = torch.tensor([[0, 1, 1, 1, 1]]) if index else None
    with (
        torch.no_grad(),
        watching(find_layers(layer), lambda *_: None, lambda _, replay: found.append(replay)),
    ):
        layer(x, attention_mask=mask, v_first=first if index else None)
    assert found[0].is_proof, found[0].why_not
    assert found[0].difference < 1e-4, found[0]
print("read")
"""


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_blocks_of_torchmamba(rank: int, groups: int) -> None:
    published = pytest.importorskip("torchmamba.mamba3", reason="torchmamba is missing")
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 4, "d_head": 8, "d_state": 6, "n_groups": groups}
    if rank:
        block = published.Mamba3MimoBlock(**sizes, mimo_rank=rank)
    else:
        block = published.Mamba3SisoBlock(**sizes)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    (found,) = proofs(block, torch.randn(2, 70, 16))
    assert found.is_proof, found.why_not
    assert found.difference < 1e-5


def test_the_layer_of_fla() -> None:
    pytest.importorskip("triton", reason="triton is missing")
    pytest.importorskip("fla.layers.rwkv7", reason="flash-linear-attention is missing")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("read")
