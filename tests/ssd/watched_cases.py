"""Cases for a process whose kernels ThreadSanitizer watches: `python watched_cases.py hopper`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

import torch
from host import AMPERE, HOPPER, on_host, run_backward, run_forward
from ssd_cases import Case, errors_of, tolerance

CASES = [
    Case(batch=1, length=150, heads=3, head_dim=20, state=20, dtype=torch.bfloat16, z=True),
    Case(batch=1, length=70, heads=2, head_dim=40, state=20, initial=True, reset=True),
]

if __name__ == "__main__":
    on_host(setattr, {"hopper": HOPPER, "ampere": AMPERE}[sys.argv[1]])
    for case in CASES:
        errors = errors_of(case, run_forward, run_backward)
        assert all(error < tolerance(case) for name, error in errors.items()), errors
