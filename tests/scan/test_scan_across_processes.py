"""One sequence over several processes, against the scan of the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keelback.errors import InputError
from keelback.scan import selective_scan, selective_scan_across

PARTS = (37, 14, 29)  # of different lengths
MACHINES = [
    pytest.param(("cpu", "gloo", PARTS), id="cpu"),
    pytest.param(
        ("cuda", "nccl", PARTS[:2]),
        id="cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
        ],
    ),
]
CASES = {
    "plain": {},
    "options": {"D": True, "z": True, "bias": True, "initial": True},
    "reset": {"reset": True, "initial": True},
    "one step size for all channels": {"shared": True},
    "unstable": {"unstable": True, "initial": True},
    "forgetful": {"forgetful": True, "initial": True},
    "forgetful, with everything": {"forgetful": True, "initial": True, "D": True, "reset": True},
    "steps back": {"back": True, "initial": True},
}
ALONG = ("u", "delta", "B", "C", "z", "reset")  # cut along the length
SUMMED = ("A", "D", "delta_bias")


def make(case: str, length: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Operands of the whole, and gradients of its output and last state."""
    generator = torch.Generator().manual_seed(0)
    on = CASES[case]
    batch, channels, state = 2, 6, 4

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    operands = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, 1 if "shared" in on else channels) / 2,
        "A": normal(channels, state).abs() * (0.1 if "unstable" in on else -0.2),
        "B": normal(batch, length, 2, state),
        "C": normal(batch, length, 2, state),
    }
    if "forgetful" in on:
        operands["A"] = operands["A"] * 20 - 100  # Nothing is left of a state after some 12 steps.
    if "back" in on:  # Where a rate is positive, a state dies; where it is negative, it lasts.
        operands["delta"] = -30 * operands["delta"].abs() - 30
        operands["A"] = torch.tensor([2.0, -1e-3, -2e-3, -1e-4], dtype=torch.float64).repeat(6, 1)
    if "D" in on:
        operands |= {"D": normal(channels), "z": normal(batch, length, channels)}
        operands["delta_bias"] = normal(channels)
    if "initial" in on:
        operands["initial_state"] = normal(batch, channels, state)
    if "reset" in on:
        operands["reset"] = torch.zeros(batch, length, dtype=torch.bool)
        operands["reset"][0, 40] = True
    return operands, normal(batch, length, channels), normal(batch, channels, state)


def scan_part(rank: int, case: str, parts: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """What process `rank` finds: outputs, last state and gradients of its part."""
    operands, dy, dlast = make(case, sum(parts))
    operands = {name: x.to(device) for name, x in operands.items()}
    dy, dlast = dy.to(device), dlast.to(device)
    start = sum(parts[:rank])
    stop = start + parts[rank]
    own = {
        name: (x[:, start:stop] if name in ALONG else x).detach().clone()
        for name, x in operands.items()
    }
    leaves = {name: x.requires_grad_() for name, x in own.items() if name != "reset"}
    softplus = case != "steps back"
    y, last = selective_scan_across(**own, delta_softplus=softplus, return_last_state=True)
    # The gradient of the last state, which all processes have, is shared out between them.
    gradients = torch.autograd.grad(
        [y, last], list(leaves.values()), [dy[:, start:stop], dlast / len(parts)]
    )
    found = {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {name: x.detach().cpu() for name, x in ({"y": y, "last": last} | found).items()}


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch, torch.distributed as dist
from datetime import timedelta
from test_scan_across_processes import CASES, scan_part
from keelback.scan.cpu import across

across._CHUNK = 4

dist.init_process_group({backend!r}, timeout=timedelta(seconds=120))
rank, device = dist.get_rank(), {device!r}
if device == "cuda":
    torch.cuda.set_device(rank)
found = {{case: scan_part(rank, case, {parts!r}, device) for case in CASES}}
torch.save(found, f"{out}-{{rank}}.pt")
dist.destroy_process_group()
"""


def scan_whole(case: str, length: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, last state and gradients of one scan in this process."""
    operands, dy, dlast = make(case, length)
    leaves = {name: x.requires_grad_() for name, x in operands.items() if name != "reset"}
    softplus = case != "steps back"
    y, last = selective_scan(**operands, delta_softplus=softplus, return_last_state=True)
    gradients = torch.autograd.grad([y, last], list(leaves.values()), [dy, dlast])
    return y, last, dict(zip(leaves, gradients, strict=True))


@pytest.fixture(scope="module", params=MACHINES)
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Tensor]]]:
    device, backend, parts = request.param
    for case in CASES:  # Its kernels are kept on disk; otherwise every process would compile them.
        scan_whole(case, sum(PARTS))
    folder = tmp_path_factory.mktemp("across")
    script, out = folder / "scan.py", folder / "out"
    tests = str(Path(__file__).parent)
    script.write_text(
        SCRIPT.format(tests=tests, backend=backend, device=device, parts=parts, out=out)
    )
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


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_one_scan(
    case: str, found: list[dict[str, dict[str, Tensor]]]
) -> None:
    y, last, gradients = scan_whole(case, sum(PARTS[: len(found)]))
    parts = [process[case] for process in found]
    torch.testing.assert_close(torch.cat([part["y"] for part in parts], 1), y)
    for part in parts:
        torch.testing.assert_close(part["last"], last)
    for name, expected in gradients.items():
        of_parts = [part[f"d{name}"] for part in parts]
        if name in ALONG:
            torch.testing.assert_close(torch.cat(of_parts, 1), expected)
        elif name in SUMMED:
            torch.testing.assert_close(torch.stack(of_parts).sum(0), expected)
        else:
            for of_part in of_parts:
                torch.testing.assert_close(of_part, expected)


def test_without_processes_it_is_refused() -> None:
    operands, _, _ = make("plain", 5)
    with pytest.raises(InputError, match="no processes to scan across"):
        selective_scan_across(**operands)
