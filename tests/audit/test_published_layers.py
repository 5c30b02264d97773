"""Newer layers that others published: proved on their own code where it is there.

torchmamba 0.1.2 runs on a CPU. The kernels of flash-linear-attention (fla) are for GPUs; Triton
interprets them here, without the timings by which it would choose among their sizes.
"""

import os
import subprocess
import sys

import pytest
import torch
from watched import proofs

BEGIN = """
import warnings
warnings.simplefilter("ignore")
import triton.runtime.autotuner as autotuner
autotuner.Autotuner._bench = lambda self, *args, config, **options: (0.0, 0.0, 0.0)
import torch
from keelback.audit import find_layers, watching

def prove(layer, x, **given):
    with torch.no_grad():
        for parameter in layer.eval().parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = []
    with (
        torch.no_grad(),
        watching(find_layers(layer), lambda *_: None, lambda _, replay: found.append(replay)),
    ):
        layer(x, **given)
    assert found[0].is_proof, (type(layer), found[0].why_not)
    assert found[0].difference < 1e-4, (type(layer), found[0])

torch.manual_seed(0)
x = torch.randn(2, 5, 32)
mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
"""

RWKV7 = """
from fla.layers.rwkv7 import RWKV7Attention

low = {f"{name}_low_rank_dim": 8 for name in ("decay", "gate", "a", "v")}
for index, fused in ((0, False), (1, True)):
    layer = RWKV7Attention(
        hidden_size=32, head_dim=16, layer_idx=index, num_hidden_layers=2, fuse_norm=fused, **low
    )
    first = torch.randn(2, 5, 32)
    prove(layer, x, attention_mask=mask if index else None, v_first=first if index else None)
"""

LINEAR = """
from fla.layers.gla import GatedLinearAttention
from fla.layers.hgrn2 import HGRN2Attention
from fla.layers.multiscale_retention import MultiScaleRetention
from fla.layers.simple_gla import SimpleGatedLinearAttention

sizes = {"hidden_size": 32, "num_heads": 2, "layer_idx": 0}
shared = {"num_kv_heads": 1, "fuse_norm": False, "use_short_conv": True}
for kind in (GatedLinearAttention, SimpleGatedLinearAttention, MultiScaleRetention):
    prove(kind(**sizes), x)
    prove(kind(**sizes, **shared), x, attention_mask=mask)
for kept in (None, mask):
    layer = HGRN2Attention(hidden_size=32, expand_ratio=16, layer_idx=1)
    prove(layer, x, attention_mask=kept, lower_bound=torch.rand(32))
"""

DELTA = """
from fla.layers.gated_deltanet import GatedDeltaNet
from fla.layers.kda import KimiDeltaAttention

sizes = {"hidden_size": 32, "head_dim": 16, "num_heads": 1, "num_v_heads": 2, "layer_idx": 0}
prove(GatedDeltaNet(**sizes, expand_v=1), x, attention_mask=mask)
prove(GatedDeltaNet(**sizes, use_gate=False, allow_neg_eigval=True), x)
prove(KimiDeltaAttention(**sizes), x)
prove(KimiDeltaAttention(**sizes, lower_bound=-5.0), x, attention_mask=mask)
"""

FOLDERS = """
import json
import tempfile
from pathlib import Path
import fla.models
from keelback.audit import audit, load_any_model
from keelback.errors import InputError

tokens = torch.randint(3, 60, (24,))
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 64}
for name, own, kind in (
    ("GLA", {"num_heads": 2}, "gated-linear-attention"),
    ("Comba", {"num_heads": 2, "head_dim": 16}, None),
    ("DeltaNet", {"num_heads": 2}, None),
):
    model = getattr(fla.models, name + "ForCausalLM")(
        getattr(fla.models, name + "Config")(**sizes, **own)
    )
    folder = Path(tempfile.mkdtemp())
    model.save_pretrained(folder)
    loaded = load_any_model(folder)
    assert (loaded.unused, loaded.remarks) == ([], [])
    try:
        result = audit(loaded.model, tokens, train_length=8, length=24)
    except InputError as error:
        assert str(error).endswith("it is made of 2 DeltaNet"), error
        continue
    read = [own.layer.kind for own in result.measures]
    assert read == ([] if kind is None else 2 * [kind]), (name, read)
    assert len(result.not_audited) == (2 if kind is None else 0)
config = folder / "config.json"
config.write_text(json.dumps(json.loads(config.read_text()) | {"wings": 3}))
try:
    load_any_model(folder)
except InputError as error:
    assert "settings that nothing in its model uses" in str(error), error
    assert "wings" in str(error), error
else:
    raise SystemExit("a setting was passed over")
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


@pytest.mark.parametrize(
    ("module", "layers"),
    [("rwkv7", RWKV7), ("gla", LINEAR), ("kda", DELTA), ("comba", FOLDERS)],
    ids=["rwkv7", "linear", "delta", "folders"],
)
def test_the_layers_of_fla(module: str, layers: str) -> None:
    pytest.importorskip("triton", reason="triton is missing")
    pytest.importorskip(f"fla.layers.{module}", reason="flash-linear-attention is missing")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + layers], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
