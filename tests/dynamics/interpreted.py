"""Runs a program whose Triton kernels are interpreted on the CPU."""

import os
import subprocess
import sys

import pytest


def run_interpreted(program: str) -> None:
    """In a process of its own, since Triton asks once whether to interpret."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONPATH"] += os.pathsep + os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
