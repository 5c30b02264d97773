"""Trainings on several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def on_two_processes(tmp_path: Path) -> Callable[[str], None]:
    """Run a script, given as text, on two processes; fail with what it said if it fails."""

    def run(script: str) -> None:
        path = tmp_path / "script.py"
        path.write_text(script)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*launch, "--nproc-per-node", "2", str(path)],
            timeout=600,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]

    return run
