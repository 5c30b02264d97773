"""Run the GPU kernels under compute-sanitizer, which comes with CUDA; print JSON.

    python tools/check_gpu_races.py --out results/benchmarks/gpu_races_h100.json
    python tools/check_gpu_races.py --only step --only "delta rule"     # the cases of these names

Needs an NVIDIA GPU and the CUDA toolkit. The sanitizer's tools look for accesses out of bounds
(memcheck), for threads that read or write shared memory without a barrier between them (racecheck)
and for barriers that not all threads reach (synccheck). The scans, with what is before them and
without, the scans by heads, the delta rules, the steps, convolutions and norms are those of the
tests on the host, and their results are compared with float64 on the way. PyTorch's own kernels are
left out, and its allocator keeps no memory, so that the bounds of a tensor are those of its memory.
Each tool has to find the mistake in a kernel that is made for it, first: else it looks at none of
ours either.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "scan_cuda"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "ssd"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "delta"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "norm"))

import delta_cases
import norm_cases
import ssd_cases
import ssd_step_cases
import torch
from conv_cases import ConvCase
from conv_cases import errors_of as convolution_errors
from cuda_cases import TOLERANCE, Case, tolerance
from cuda_cases import errors_of as scan_errors
from step_cases import CASES as STEPS
from step_cases import errors_of as step_errors
from step_cases import make_step
from test_cuda_conv_on_host import CASES as CONVOLUTIONS
from test_cuda_kernels_on_host import CASES as SCANS
from test_cuda_scan_across_on_host import CASES as PARTS
from test_cuda_scan_across_on_host import Distributed, errors_of_parts
from test_delta_kernels_on_host import CASES as DELTA_RULES
from test_norm_kernels_on_host import CASES as NORMS
from test_norm_on_gpu import by_kernels
from test_ssd_kernels_on_host import CASES as SCANS_BY_HEADS
from test_ssd_on_gpu import run_backward, run_forward

import result_file
from keelback.compiled import across, cuda_driver, nvrtc
from keelback.delta import delta_rule
from keelback.scan import _across

#: What the names of all kernels begin with.
PREFIX = "keelback_"
PLANTED = "planted"
#: By tool, a kernel with the mistake that it looks for.
MISTAKES = {
    "memcheck": "numbers[threadIdx.x + 64] = 1;",
    "racecheck": "__shared__ int shared[64]; shared[threadIdx.x] = threadIdx.x; "
    "numbers[threadIdx.x] = shared[63 - threadIdx.x];",
    "synccheck": "if (threadIdx.x < 16) __syncthreads(); numbers[threadIdx.x] = 1;",
}
TOOLS = tuple(MISTAKES)
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def step_error(options: dict[str, Any]) -> float:
    """The larger error of a step's output and state, as a share of what it may be."""
    given = make_step(**options)
    of_y, of_state = step_errors(given, device="cuda")
    return max(of_y / TOLERANCE[given["u"].dtype], of_state / TOLERANCE[given["state"].dtype])


def step_by_heads_error(options: dict[str, Any]) -> float:
    """The larger error of the output and states of a step by heads, as a share of the allowed."""
    given = ssd_step_cases.make_step(**options)
    there = {n: x.cuda() if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    found = ssd_step_cases.run_step(there, in_place=True)
    assert found is not None
    return max(
        ssd_cases.relative_error(ours.cpu(), exact) / ssd_step_cases.TOLERANCE[ours.dtype]
        for ours, exact in zip(found, ssd_step_cases.exact_step(given), strict=True)
    )


def calls() -> dict[str, Callable[[], float]]:
    """The largest error of each case, as a share of what it may be."""

    def scan(case: Case) -> float:
        return max(scan_errors(case, "cuda").values()) / tolerance(case)

    def convolution(case: ConvCase) -> float:
        return max(convolution_errors(case, "cuda").values()) / case.tolerance

    def norm(case: norm_cases.NormCase) -> float:
        errors = norm_cases.errors_of(case, by_kernels, "cuda")
        return max(errors.values()) / norm_cases.tolerance(case)

    def scan_of_part(case: Case, parts: tuple[int, ...]) -> float:
        # In one part: autograd has one thread for a GPU, which cannot wait for itself.
        return max(errors_of_parts(case, (sum(parts),), "cuda").values()) / tolerance(case)

    def scan_by_heads(case: ssd_cases.Case) -> float:
        errors = ssd_cases.errors_of(case, run_forward, run_backward, "cuda")
        return max(errors.values()) / ssd_cases.tolerance(case)

    def rule(case: delta_cases.Case) -> float:
        return max(
            delta_cases.errors_of(case, delta_rule, "cuda").values()
        ) / delta_cases.tolerance(case)

    for module in (_across, across):
        mock.patch.object(module, "dist", Distributed).start()
    return {
        **{f"delta rule {case}": partial(rule, case) for case in DELTA_RULES},
        **{f"scan by heads {case}": partial(scan_by_heads, case) for case in SCANS_BY_HEADS},
        **{f"part {case}": partial(scan_of_part, case, parts) for case, parts in PARTS},
        **{f"scan {case}": partial(scan, case) for case in SCANS},
        **{f"step {name}": partial(step_error, options) for name, options in STEPS.items()},
        **{
            f"step by heads {name}": partial(step_by_heads_error, options)
            for name, options in ssd_step_cases.CASES.items()
        },
        **{f"convolution {case}": partial(convolution, case) for case in CONVOLUTIONS},
        **{f"norm {case}": partial(norm, case) for case in NORMS},
    }


def chosen(only: Sequence[str]) -> dict[str, Callable[[], float]]:
    """The cases whose names begin with one of these; all where none is given.

    Raises:
        SystemExit: one of these begins no name.
    """
    found = calls()
    for start in only:
        if not any(name.startswith(start) for name in found):
            raise SystemExit(f"--only is {start!r}; no case's name begins so")
    return {name: call for name, call in found.items() if not only or name.startswith(tuple(only))}


def run_cases(only: Sequence[str]) -> None:
    shares = {name: call() for name, call in chosen(only).items()}
    wrong = {name: share for name, share in shares.items() if not share < 1}
    print(json.dumps({"cases": len(shares), "wrong results": len(wrong)}))
    if wrong:
        print(wrong, file=sys.stderr)


def run_planted(tool: str) -> None:
    """The kernel with the mistake that the tool looks for."""
    source = f'extern "C" __global__ void {PREFIX}{PLANTED}(int* numbers) {{ {MISTAKES[tool]} }}'
    architecture = cuda_driver.architecture_of(torch.cuda.get_device_capability())
    code = nvrtc._compile(nvrtc._nvrtc(), PLANTED, {f"{PLANTED}.cu": source}, architecture)
    numbers = torch.zeros(64, dtype=torch.int32, device="cuda")
    with mock.patch.object(cuda_driver, "compiled", return_value=code):
        kernel = cuda_driver.Kernel(PLANTED, mock.Mock(), 0)
    kernel.launch(1, 64, numbers.data_ptr().to_bytes(8, sys.byteorder))
    with contextlib.suppress(RuntimeError):  # The tool stops a kernel that it finds at fault.
        torch.cuda.synchronize()
    print(json.dumps({"cases": 1}))


def findings(tool: str, *options: str) -> tuple[dict[str, Any], int, str]:
    """What this script printed under a tool, how much the tool found, and all output."""
    command = ["compute-sanitizer", "--tool", tool, "--report-api-errors", "no"]
    command += ["--kernel-name", f"kns={PREFIX}"]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        [*command, sys.executable, __file__, *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    text = done.stdout + done.stderr
    summary = SUMMARY.findall(text)
    results = [line for line in text.splitlines() if line.startswith('{"cases"')]
    if not summary or not results:
        raise SystemExit(f"{' '.join(command)} did not end well:\n{text[:3000]}")
    return json.loads(results[0]), int(summary[-1]), text


def check(tool: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """One tool's findings over the cases."""
    _, planted, text = findings(tool, "--planted", tool)
    if not planted:
        raise SystemExit(f"{tool} does not find the mistake that is planted:\n{text[:3000]}")
    names = [word for start in only for word in ("--only", start)]
    results, found, text = findings(tool, "--cases", *names)
    row = {"tool": tool, **results, "findings": found, "planted mistake found": planted}
    well = not found and not results["wrong results"]
    print(json.dumps(row), "" if well else text[:3000], file=sys.stderr)
    return row


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", action="store_true", help="run the cases, without a tool")
    options.add_argument("--planted", choices=TOOLS, help="run a kernel with a mistake instead")
    options.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="START",
        help="cases whose names begin so; may be repeated; all by default; e.g. step",
    )
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    if given.cases:
        run_cases(given.only)
        return
    if given.planted:
        run_planted(given.planted)
        return
    if shutil.which("compute-sanitizer") is None:
        raise SystemExit("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
    chosen(given.only)
    record = result_file.started(given)
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(partial(check, only=given.only), TOOLS))
    result_file.write(given, record, {"rows": rows})
    if any(row["findings"] or row["wrong results"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
