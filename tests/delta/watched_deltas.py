"""Cases for a process whose kernels ThreadSanitizer watches: `python watched_deltas.py hopper`."""

import sys

import torch
from delta_cases import Case, errors_of, tolerance
from delta_host import AMPERE, HOPPER, delta_rule_by_kernels, on_host

CASES = [
    Case(batch=1, length=330, heads=1, groups=1, key=64, value=64, dtype=torch.bfloat16),
    Case(
        batch=1,
        length=70,
        heads=1,
        groups=1,
        key=64,
        value=64,
        dtype=torch.bfloat16,
        by_channel=True,
        strong=-9.0,
        reset=0.05,
    ),
    Case(batch=1, length=33, heads=1, groups=1, key=64, value=16, initial=True, reset=0.1),
]

if __name__ == "__main__":
    on_host(setattr, {"hopper": HOPPER, "ampere": AMPERE}[sys.argv[1]])
    for case in CASES:
        errors = errors_of(case, delta_rule_by_kernels)
        assert all(error < tolerance(case) for name, error in errors.items()), errors
