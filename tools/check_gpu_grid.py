"""Check the GPU scan against float64 over a grid of sizes, types and options; print JSON.

    python tools/check_gpu_grid.py --processes 8 --out results/benchmarks/gpu_grid_h100.json

Needs an NVIDIA GPU. The cases are those of tests/scan_cuda/test_cuda_scan_on_gpu.py; each runs
forward and backward, after memory was filled with nan. Kernels are compiled as they are first
needed: hence the processes.
"""

import argparse
import json
import math
import multiprocessing
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "scan_cuda"))

from cuda_cases import TOLERANCE, Case, errors_of, tolerance
from test_cuda_scan_on_gpu import OPTIONS, SIZES

import result_file

FURTHER = [
    Case(dtype=torch.bfloat16, channels=80, states=4, spans=2),
    Case(batch=300, length=70, states=4),
    Case(length=400, unstable=True, spans=3, bias=False, softplus=False),
]


def cases() -> list[Case]:
    grid = product(TOLERANCE, SIZES, OPTIONS)
    return [Case(dtype=dtype, **size, **options) for dtype, size, options in grid] + FURTHER


def check(number: int) -> dict[str, Any]:
    case = cases()[number]
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(8)]
    del poison
    found: dict[str, Any] = {
        "dtype": str(case.dtype).removeprefix("torch."),
        "case": str(case),
        "allowed": tolerance(case),
    }
    try:
        errors = errors_of(case, "cuda")
    except Exception as error:  # A case that breaks must not hide the others.
        found |= {"error": repr(error)[:300], "passed": False}
    else:
        worst = max(errors.values())
        found |= {"worst": worst, "passed": worst < found["allowed"]}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for dtype in TOLERANCE:
        name = str(dtype).removeprefix("torch.")
        of_dtype = [case for case in found if case["dtype"] == name]
        if not of_dtype:
            continue
        rows.append(
            {
                "dtype": name,
                "cases": len(of_dtype),
                "failed": sum(not case["passed"] for case in of_dtype),
                "largest relative error": _number(max(_worst(case) for case in of_dtype)),
                "largest share of what is allowed": _number(
                    max(_worst(case) / case["allowed"] for case in of_dtype)
                ),
            }
        )
    return rows


def _worst(case: dict[str, Any]) -> float:
    return float(case.get("worst", 0.0))


def _number(value: float) -> float | str:
    """JSON has no infinity and no nan; their names serve."""
    return value if math.isfinite(value) else str(value)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--processes", type=int, default=4, help="compile and check at a time")
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    record = result_file.started(given)
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no NVIDIA GPU here")
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        found = list(pool.imap_unordered(check, range(len(cases())), chunksize=1))
    failures = [{**case, "worst": _number(_worst(case))} for case in found if not case["passed"]]
    result_file.write(given, record, {"rows": summary(found), "failures": failures})


if __name__ == "__main__":
    main()
