"""An audit of three models that others trained: super-resolution of the PyPI package opensr-mamba.

    pip install --no-deps --target FOLDER opensr-mamba==0.0.1 einops==0.8.1
    python tools/audit_opensr_mamba.py FOLDER --out results/experiments/audit-opensr/results.json

They sharpen images of Sentinel-2, and each of their eight layers scans an image in four directions
(SS2D). Their code wants the scan of mamba_ssm, which needs CUDA; here keelback's stands in for it.
Of timm they use three functions that do nothing once a model is trained, so it need not be there.
"""

import argparse
import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import result_file
from audited import in_a_row
from keelback.audit import audit
from keelback.integrations import provide_mamba_ssm

_SHARED: dict[str, Any] = {
    "embed_dim": 60,
    "depths": [2, 2, 2, 2],
    "d_state": 16,
    "mlp_ratio": 1.5,
    "attention_type": "sigmoid_02",
    "upsampler": "pixelshuffledirect",
    "resi_connection": "1conv",
}
MODELS: dict[str, dict[str, Any]] = {
    "srmodel": {"in_chans": 3, "upscale": 4, "operation_attention": "sum"},
    "fusionmodel01": {
        "in_chans": 10,
        "out_chans": 6,
        "upscale": 1,
        "operation_attention": "prod",
    },
    "fusionmodel02": {
        "in_chans": 10,
        "out_chans": 7,
        "upscale": 1,
        "operation_attention": "sum",
    },
}
"""The settings with which the package makes each of its models."""


class _Same(nn.Module):
    """Stochastic depth as it is in evaluation mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """What it was given."""
        return x


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within the block, the package can be imported, with what it needs."""
    layers: Any = ModuleType("timm.layers")
    layers.DropPath = _Same
    layers.trunc_normal_ = nn.init.trunc_normal_
    layers.to_2tuple = lambda x: (x, x)
    timm: Any = ModuleType("timm")
    timm.layers = layers
    models: Any = ModuleType("timm.models")
    timm.models, models.layers = models, layers
    stand_ins = {"timm": timm, "timm.models": models, "timm.models.layers": layers}
    sys.path.insert(0, str(folder))
    sys.modules.update(stand_ins)
    try:
        with provide_mamba_ssm():
            yield
    finally:
        sys.path.remove(str(folder))
        for name in stand_ins:
            del sys.modules[name]


def load(folder: Path, name: str, size: int) -> nn.Module:
    """One of the three models with its weights; `size` is that of the image it takes."""
    with importable(folder):
        made = importlib.import_module("opensr_mamba.mamba.main")
        model: nn.Module = made.MambaSR(img_size=size, **_SHARED, **MODELS[name])
    file = folder / "opensr_mamba" / "mamba" / "weights" / f"{name}.pth"
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model.eval()


def landscape(channels: int, size: int) -> Tensor:
    """An image of fields and a river, `(1, channels, size, size)`, with reflectances as such have.

    No bands of a satellite come with keelback; patterns of several scales stand in for them.
    """
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bands = []
    for i in range(channels):
        fields = torch.rand(8, 8, generator=generator)[y * 8 // size, x * 8 // size]
        river = torch.exp(-(((y - size / 2 - size / 6 * torch.sin(x / size * math.tau)) / 3) ** 2))
        grain = torch.randn(size, size, generator=generator)
        bands.append(0.1 + 0.2 * fields - 0.05 * river * (1 + i / channels) + 0.01 * grain)
    return torch.stack(bands)[None]


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("folder", type=Path, help="where the packages were unpacked")
    made.add_argument("--size", type=int, default=32, help="height and width of the image")
    result_file.add_options(made)
    return made


def main() -> None:
    """Audit the three models."""
    given = parser().parse_args()
    record = result_file.started(given)
    rows, layers = [], []
    for name, settings in MODELS.items():
        model = load(given.folder, name, given.size)
        image = landscape(settings["in_chans"], given.size)
        inputs = {"x": image, "save_attention_maps": True}  # as the package calls it
        result = audit(model, inputs, train_length=given.size**2, name=name)
        rows.append({"model": name, **in_a_row(result)})
        layers += [
            {
                "model": name,
                "layer": layer["name"],
                "spectral_abscissa": layer["spectral_abscissa"],
                "median_horizon": layer["horizon"]["median"],
                "replay": layer["replay"],
            }
            for layer in result.to_json()["layers"]
        ]
    result_file.write(given, record, {"rows": rows, "layers": layers})


if __name__ == "__main__":
    main()
