"""An audit of a model that others trained: the Mamba that the PyPI package typeseg ships.

    pip install --no-deps --target FOLDER typeseg==0.2.7
    python tools/audit_typeseg.py FOLDER --out results/experiments/audit-typeseg/results.json

typeseg tells, byte by byte, in which of 35 languages a text is written. Its six layers scan from
both ends with the same weights, and their step sizes are softplus(x) + 0.0001: they look like
Mamba's and are not. The audit says so; an adapter of a page, `BothWaysAdapter`, reads them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import result_file
from audited import in_a_row
from keelback.audit import audit, bundled_text
from keelback.audit.adapters import Adapter, LayerCall, SelectiveRecurrence, register_adapter
from keelback.scan import selective_scan

LAYERS, WIDTH, STATE, RANK, TAPS, CLASSES, WORDS = 6, 256, 16, 16, 4, 35, 130
_LEAST_STEP = 1e-4


class Block(nn.Module):
    """One layer: a convolution over neighbours, and a scan from each end with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.in_proj = nn.Linear(WIDTH, 2 * WIDTH)
        self.conv1d = nn.Conv1d(WIDTH, WIDTH, TAPS, groups=WIDTH)
        self.x_proj = nn.Linear(WIDTH, RANK + 2 * STATE)
        self.dt_proj = nn.Linear(RANK, WIDTH)
        self.A_log = nn.Parameter(torch.zeros(WIDTH, STATE))
        self.D = nn.Parameter(torch.zeros(WIDTH))
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's input and what it adds to it, `(batch, length, width)`."""
        u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv1d(F.pad(u.mT, (1, 2))).mT)
        step, B, C = self.x_proj(u).split([RANK, STATE, STATE], dim=-1)
        delta = F.softplus(self.dt_proj(step)) + _LEAST_STEP
        y = self._scanned(u, delta, B, C)
        y = y + self._scanned(*(z.flip(1) for z in (u, delta, B, C))).flip(1)
        added: Tensor = self.out_proj(y * F.silu(gate))
        return x + added

    def _scanned(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        B, C = B.unsqueeze(-2), C.unsqueeze(-2)
        y = selective_scan(u, delta, -torch.exp(self.A_log), B, C, self.D)
        assert isinstance(y, Tensor)
        return y


class Segmenter(nn.Module):
    """Bytes to the logits of their language, `(batch, length, classes)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """All bytes that are not ASCII are one token."""
        x = self.embedding(tokens.clamp_max(128))
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


_OF_A_BLOCK = {
    "norm": "LayerNorm_0",
    "in_proj": "Dense_0",
    "conv1d": "Conv_0",
    "x_proj": "Dense_1",
    "dt_proj": "Dense_2",
    "out_proj": "Dense_3",
}


def load(folder: Path) -> Segmenter:
    """The model with the weights of the package, each of which is used."""
    with np.load(folder / "typeseg" / "data" / "mamba_al.npz", allow_pickle=False) as file:
        stored = {name: torch.from_numpy(file[name]) for name in file.files}
    state = {"embedding.weight": stored.pop("Embed_0__embedding")}
    state |= _module("norm", "LayerNorm_0", stored) | _module("head", "Dense_0", stored)
    for i in range(LAYERS):
        theirs = f"CheckpointMambaBlock1D_{i}__"
        for name in ("A_log", "D"):
            state[f"layers.{i}.{name}"] = stored.pop(theirs + name)
        for name, their_name in _OF_A_BLOCK.items():
            state |= _module(f"layers.{i}.{name}", theirs + their_name, stored)
    assert not stored
    model = Segmenter()
    model.load_state_dict(state)
    return model.eval()


def _module(name: str, theirs: str, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = stored.pop(f"{theirs}__scale", None)
    if weight is None:
        kernel = stored.pop(f"{theirs}__kernel")
        weight = kernel.permute(2, 1, 0) if kernel.ndim == 3 else kernel.T
    return {f"{name}.weight": weight.contiguous(), f"{name}.bias": stored.pop(f"{theirs}__bias")}


class Direction(Adapter):
    """One of the two directions, which share all weights."""

    kind = "mamba"
    watched: tuple[str, ...] = ("conv1d", "x_proj", "dt_proj")

    def __init__(self, is_backward: bool = False) -> None:
        self._is_backward = is_backward

    def matches(self, module: Any) -> bool:
        """Never by itself."""
        return False

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Tensor:
        """`-exp(A_log)`."""
        return -torch.exp(module.A_log.detach())

    def read(self, module: Any, call: LayerCall) -> SelectiveRecurrence:
        """What the scan is given, from what the projections gave."""
        u = F.silu(call.seen["conv1d"].output.mT)
        _, B, C = call.seen["x_proj"].output.split([RANK, STATE, STATE], dim=-1)
        delta = F.softplus(call.seen["dt_proj"].output) + _LEAST_STEP
        if self._is_backward:
            u, delta, B, C = (x.flip(1) for x in (u, delta, B, C))
        recurrence = SelectiveRecurrence(
            u, delta, self.state_matrix(module), B.unsqueeze(-2), C.unsqueeze(-2), module.D
        )
        if self._is_backward:
            recurrence.order = torch.arange(u.shape[1]).flip(0)
        return recurrence


class BothWaysAdapter(Direction):
    """A layer that scans from both ends with the same weights."""

    watched = ("in_proj", "conv1d", "x_proj", "dt_proj")
    parts = (*watched, "norm", "A_log", "D", "out_proj")

    def matches(self, module: Any) -> bool:
        """Told by its class."""
        return isinstance(module, Block)

    def directions(self, module: Any) -> Mapping[str, Adapter]:
        """Forward and backward."""
        return {"forward": Direction(), "backward": Direction(is_backward=True)}

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The sum of both, in the order of the text, times the gate."""
        _, gate = call.seen["in_proj"].output.chunk(2, dim=-1)
        return (outputs[0] + outputs[1].flip(1)) * F.silu(gate)


def difference_to_theirs(model: Segmenter, folder: Path, tokens: Tensor) -> float:
    """Largest difference of a logit to the package's own forward pass in NumPy."""
    sys.path.insert(0, str(folder))
    try:
        from typeseg import _numpy_backend, _runtime  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    theirs = _numpy_backend.mamba_forward(_runtime._weights("mamba_al.npz"), tokens.numpy())
    with torch.no_grad():
        ours = model(tokens[None])[0]
    return float((ours - torch.from_numpy(theirs)).abs().max())


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("folder", type=Path, help="where the package was unpacked")
    made.add_argument("--length", type=int, default=1536, help="bytes of text")
    result_file.add_options(made)
    return made


def main() -> None:
    """Audit it without and with the adapter."""
    given = parser().parse_args()
    record = result_file.started(given)
    model = load(given.folder)
    tokens = torch.tensor(list(bundled_text().encode()[: given.length]))
    plain = audit(model, tokens, train_length=given.length)
    rows = [{"audit": "without an adapter", **in_a_row(plain)}]
    register_adapter(BothWaysAdapter)
    result = audit(model, tokens, train_length=given.length)
    rows.append({"audit": "with the adapter", **in_a_row(result)})
    found = {
        "difference_to_their_forward_pass": difference_to_theirs(model, given.folder, tokens[:256]),
        "rows": rows,
        "layers": [_short(layer) for layer in result.to_json()["layers"]],
    }
    result_file.write(given, record, found)


def _short(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layer": layer["name"],
        "spectral abscissa": f"{layer['spectral_abscissa']:.3g}",
        "median step": f"{layer['delta']['median']:.3g}",
        "median horizon": f"{layer['horizon']['median']:.3g}",
        "99 % of horizons": f"{layer['horizon']['p99']:.3g}",
    }


if __name__ == "__main__":
    main()
