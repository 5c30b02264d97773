"""Cases for a process whose kernels are watched: `python watched_norms.py`."""

import torch
from norm_cases import NormCase, errors_of, tolerance
from norm_host import by_kernels, host_kernels, on_host

CASES = [
    NormCase(channels=24, rows=(70,)),
    NormCase(channels=600, rows=(5,), norm_before_gate=True),
    NormCase(channels=1040, rows=(3,), group_size=520, dtype=torch.bfloat16),
    NormCase(channels=2050, rows=(3,)),
    NormCase(channels=64, rows=(70,), dtype=torch.bfloat16, weight=torch.float32, gap=8),
    NormCase(channels=36, rows=(40,), dtype=torch.float64, group_size=18),
]

if __name__ == "__main__":
    host_kernels._FLAGS = (*host_kernels._FLAGS, "-fsanitize=alignment")
    on_host(setattr)
    for case in CASES:
        errors = errors_of(case, by_kernels, "cpu")
        assert max(errors.values()) < tolerance(case), errors
