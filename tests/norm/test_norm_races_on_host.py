"""Sanitizers watch the norm's threads, simulated on the host, for races and wrong addresses."""

import sys
from pathlib import Path

import pytest
from norm_host import WATCH_RACES
from test_cuda_races_on_host import REPORT, sanitizer, watched

pytestmark = pytest.mark.skipif(sanitizer() is None, reason="needs g++ with ThreadSanitizer")


@pytest.mark.slow
def test_no_barrier_is_missing_and_every_address_fits_its_pack() -> None:
    library = sanitizer()
    assert library is not None
    command = [sys.executable, Path(__file__).parent / "watched_norms.py"]
    run = watched(command, LD_PRELOAD=library, **{WATCH_RACES: "1"})
    assert REPORT not in run.stderr, run.stderr[run.stderr.index(REPORT) :][:4000]
    assert "misaligned" not in run.stderr, run.stderr[:4000]
    assert run.returncode == 0, run.stderr[-4000:]
