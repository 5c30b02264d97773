"""Cases for a process whose kernels ThreadSanitizer watches: `python watched_cases.py hopper`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

import torch
from host import AMPERE, HOPPER, on_host, run_backward, run_forward
from ssd_cases import Case, errors_of, tolerance
from ssd_step_cases import CASES as STEPS
from ssd_step_cases import make_step, require_exact

from keelback.ssd.cuda import step

CASES = [
    Case(batch=1, length=150, heads=3, head_dim=20, state=20, dtype=torch.bfloat16, z=True),
    Case(batch=1, length=330, heads=3, head_dim=40, state=20, dtype=torch.float16, reset=True),
    Case(batch=1, length=70, heads=2, head_dim=40, state=20, initial=True, reset=True),
]

WATCHED_STEPS = ("numbers that share no thread evenly, groups", "states that make no packs")

if __name__ == "__main__":
    on_host(setattr, {"hopper": HOPPER, "ampere": AMPERE}[sys.argv[1]])
    for case in CASES:
        errors = errors_of(case, run_forward, run_backward)
        assert all(error < tolerance(case) for name, error in errors.items()), errors
    step.processors_of = lambda device: 0
    for name in WATCHED_STEPS:
        require_exact(make_step(**STEPS[name]), in_place=True)
