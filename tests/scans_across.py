"""Scans of one sequence over several processes, as tests run them."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

Operands = dict[str, Tensor]
#: Of each process, by case and by name: outputs, last states and gradients.
Found = list[dict[str, Operands]]

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import torch, torch.distributed as dist
from datetime import timedelta
from {module} import CASES, scan_part

{prepare}
dist.init_process_group({backend!r}, timeout=timedelta(seconds=120))
rank, device = dist.get_rank(), {device!r}
if device == "cuda":
    torch.cuda.set_device(rank)
found = {{case: scan_part(rank, case, {parts!r}, device) for case in CASES}}
torch.save(found, f"{out}-{{rank}}.pt")
dist.destroy_process_group()
"""


def machines(parts: Sequence[int]) -> list[object]:
    """Parameters of a fixture: processes of this machine, and two GPUs where there are two."""
    absent = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
    return [
        pytest.param(("cpu", "gloo", tuple(parts)), id="cpu"),
        pytest.param(
            ("cuda", "nccl", tuple(parts[:2])), id="cuda", marks=[pytest.mark.gpu, absent]
        ),
    ]


def found_by_processes(
    folder: Path, test: Path, machine: tuple[str, str, tuple[int, ...]], prepare: str = ""
) -> Found:
    """What `scan_part` of a test's module finds in each process, for each of its `CASES`."""
    device, backend, parts = machine
    script, out = folder / "scan.py", folder / "out"
    paths = [str(test.parent), str(Path(__file__).parent)]
    script.write_text(
        SCRIPT.format(
            paths=paths, module=test.stem, prepare=prepare, backend=backend, device=device,
            parts=parts, out=out,
        )
    )  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", str(len(parts)), str(script)],
        timeout=600,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(f"{out}-{rank}.pt", weights_only=True) for rank in range(len(parts))]


def part_found(
    scan: Callable[..., tuple[Tensor, Tensor]],
    made: tuple[Operands, Tensor, Tensor],
    along: Sequence[str],
    rank: int,
    parts: Sequence[int],
    device: str,
) -> Operands:
    """Output, last states and gradients of the part of process `rank`.

    Args:
        scan: over the processes, of operands by name.
        made: operands of the whole, and gradients of its output and last states.
        along: names of the operands that are cut along the length.
    """
    operands, dy, dlast = made
    start = sum(parts[:rank])
    mine = slice(start, start + parts[rank])
    own = {
        name: (x[:, mine] if name in along else x).to(device, copy=True)
        for name, x in operands.items()
    }
    leaves = {name: x.requires_grad_() for name, x in own.items() if name != "reset"}
    y, last = scan(**own)
    # The gradient of the last states, which all processes have, is shared out between them.
    gradients = torch.autograd.grad(
        [y, last], list(leaves.values()), [dy[:, mine].to(device), dlast.to(device) / len(parts)]
    )
    found = {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {name: x.detach().cpu() for name, x in ({"y": y, "last": last} | found).items()}


def whole_found(
    scan: Callable[..., tuple[Tensor, Tensor]], made: tuple[Operands, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Operands]:
    """Output, last states and gradients, by the operands' names, of one scan."""
    operands, dy, dlast = made
    leaves = {name: x.requires_grad_() for name, x in operands.items() if name != "reset"}
    y, last = scan(**operands)
    gradients = torch.autograd.grad([y, last], list(leaves.values()), [dy, dlast])
    return y, last, dict(zip(leaves, gradients, strict=True))


def assert_parts_of_one_scan(
    scan: Callable[..., tuple[Tensor, Tensor]],
    made: tuple[Operands, Tensor, Tensor],
    parts: Sequence[Mapping[str, Tensor]],
    along: Sequence[str],
    summed: Sequence[str],
) -> None:
    """The processes found what `scan` of the whole finds.

    Args:
        along: names of the operands that are cut along the length.
        summed: names of those whose gradients are those of the part.
    """
    y, last, gradients = whole_found(scan, made)
    torch.testing.assert_close(torch.cat([part["y"] for part in parts], 1), y)
    for part in parts:
        torch.testing.assert_close(part["last"], last)
    for name, expected in gradients.items():
        of_parts = [part[f"d{name}"] for part in parts]
        if name in along:
            torch.testing.assert_close(torch.cat(of_parts, 1), expected)
        elif name in summed:
            torch.testing.assert_close(torch.stack(of_parts).sum(0), expected)
        else:
            for of_part in of_parts:
                torch.testing.assert_close(of_part, expected)
