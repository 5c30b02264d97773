"""Other ways to run a selective scan from PyTorch, each in the layout that it likes best.

A peer is a function from inputs to a prepared call: `prepare(inputs)` returns the tensors to
differentiate and a function that runs the scan on them. Converting the layout is not timed; turning
A and delta into decays is, since that is part of the scan.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from keelback.benchmarks.scan_inputs import Inputs
from keelback.errors import InputError, first_line
from keelback.extras import EXTRAS
from keelback.scan import selective_scan

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A scan that is ready to run: its leaves, their gradient of the output, and the function."""

    leaves: tuple[Tensor, ...]
    dy: Tensor
    run: Callable[..., Tensor]

    def forward(self) -> Tensor:
        """Run the scan without a gradient."""
        with torch.no_grad():
            return self.run(*self.leaves)

    def forward_and_backward(self) -> tuple[Tensor, ...]:
        """Run the scan and the gradients of all its leaves."""
        leaves = tuple(leaf.detach().requires_grad_() for leaf in self.leaves)
        return torch.autograd.grad(self.run(*leaves), leaves, self.dy)


Peer = Callable[[Inputs], Call]


def keelback(inputs: Inputs) -> Call:
    """This package."""
    run = cast(Callable[..., Tensor], selective_scan)
    return Call(inputs.operands, inputs.dy, run)


def huggingface_loop(inputs: Inputs) -> Call:
    """The loop that transformers falls back to: its own function."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, dy = (x.mT.contiguous() for x in (inputs.u, inputs.delta, inputs.dy))
    B, C = (x.squeeze(2).mT.contiguous() for x in (inputs.B, inputs.C))

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return mamba_selective_scan(u, delta, A, B, C).mT

    return Call((u, delta, inputs.A, B, C), dy.mT, run)


def _decays_and_drives(u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    step = delta.unsqueeze(-1)
    return torch.exp(step * A), step * u.unsqueeze(-1) * B


def mambapy_pscan(inputs: Inputs) -> Call:
    """The parallel scan of mambapy."""
    from mambapy.pscan import pscan

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        states = pscan(*_decays_and_drives(u, delta, A, B))
        return (states @ C.mT).squeeze(-1)

    return Call(inputs.operands, inputs.dy, run)


def torch_associative_scan(inputs: Inputs) -> Call:
    """PyTorch's own associative scan, with the combination of affine maps."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        maps = _decays_and_drives(u, delta, A, B)
        _, states = associative_scan(combine, maps, dim=1, combine_mode="generic")
        return (states @ C.mT).squeeze(-1)

    return Call(inputs.operands, inputs.dy, run)


def mamba_ssm(inputs: Inputs) -> Call:
    """The CUDA kernels of mamba-ssm."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, dy = (x.mT.contiguous() for x in (inputs.u, inputs.delta, inputs.dy))
    B, C = (x.movedim(1, -1).contiguous() for x in (inputs.B, inputs.C))

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return selective_scan_fn(u, delta, A, B, C).mT

    return Call((u, delta, inputs.A, B, C), dy.mT, run)


PEERS: dict[str, dict[str, Peer]] = {
    "cpu": {
        "huggingface_loop": huggingface_loop,
        "mambapy_pscan": mambapy_pscan,
        "torch_associative_scan": torch_associative_scan,
    },
    "cuda": {"mamba_ssm": mamba_ssm},
}


def head_sizes(text: str, layout: str) -> list[int]:
    """Six sizes from text of this layout, whose third are the heads and whose last their groups.

    Raises:
        InputError: It is not that.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) != 6 or min(sizes) < 1 or sizes[2] % sizes[5]:
        raise InputError(
            f"shape is {text!r}; it should be {layout}, and the groups should divide the heads"
        )
    return sizes


def load_peers(loaders: Mapping[str, Callable[[], T]], required: Sequence[str]) -> dict[str, T]:
    """What the loaders give, less the peers that are not installed, which are named on stderr.

    Raises:
        InputError: One of the required peers is not installed.
    """
    found = {}
    for name, load in loaders.items():
        try:
            found[name] = load()
        except ImportError as error:
            if name in required:
                package = getattr(error, "name", None)
                extra = " or ".join(
                    f'pip install "keelback[{extra}]"'
                    for extra, packages in EXTRAS.items()
                    if package in packages
                )
                advice = f"; {extra}" if extra else ""
                raise InputError(f"peer {name} cannot be imported: {error}{advice}") from error
            print(f"absent: {name} ({error})", file=sys.stderr)
    return found


def leave_out_what_fails(runs: dict[str, Callable[[], Any]], what: str) -> dict[str, str]:
    """Run each once, and take out those of peers that raise, which are named on stderr.

    Args:
        runs: By the name of the way, "ours" among them; changed in place.
        what: What they are runs of, in words.

    Returns:
        What each of these said, by its name and `what`.
    """
    refused: dict[str, str] = {}
    for name, run in list(runs.items()):
        try:
            run()
        except Exception as error:
            if name == "ours":
                raise
            message = first_line(error)
            refused[f"{name}, {what}"] = message
            print(f"refused: {name}, {what} ({message})", file=sys.stderr)
            del runs[name]
    return refused
