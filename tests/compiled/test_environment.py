"""Settings of the environment that kernels meet, and processes that are forked."""

import os
import subprocess
import sys
import textwrap

import pytest

SCAN = """
import torch
from keelback.scan import selective_scan
x = torch.randn(2, 9, 4)
operands = x, x, -torch.rand(4, 4), x[..., None, :], x[..., None, :]
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )


def last_line(program: str, **environment: str) -> str:
    done = run(program, **environment)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_without_compiling_there_is_one_line_and_the_reference() -> None:
    line = last_line(f"{SCAN}\nselective_scan(*operands)", NUMBA_DISABLE_JIT="1")
    assert line.startswith("keelback.errors.InputError: NUMBA_DISABLE_JIT is set")
    assert "backend='reference'" in line
    reference = f"{SCAN}\nselective_scan(*operands, backend='reference')"
    assert run(reference, NUMBA_DISABLE_JIT="1").returncode == 0


@pytest.mark.parametrize("threads", ["0", "-3", " 0 "])
def test_no_threads_are_refused_in_one_line(threads: str) -> None:
    line = last_line(SCAN, NUMBA_NUM_THREADS=threads)
    assert line.startswith("keelback.errors.InputError: NUMBA_NUM_THREADS is ")
    assert "it should be 1 or more" in line


def test_a_child_forked_from_a_process_that_computed_computes_too() -> None:
    done = run(
        """
        import os, sys, torch
        from keelback.scan import selective_scan
        torch.set_num_threads(2)
        x = torch.randn(32, 1000, 32, requires_grad=True)
        A, B = -torch.rand(32, 8), torch.randn(32, 1000, 1, 8)

        def gradient():
            y = selective_scan(x, x.detach().abs(), A, B, B)
            return torch.autograd.grad(y.sum(), x)[0]

        expected = gradient()
        child = os.fork()
        if child == 0:
            same = torch.equal(gradient(), expected)
            os._exit(0 if same and torch.get_num_threads() == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.get_num_threads() == 2
        """
    )
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning: this process was forked" in done.stderr
