"""ThreadSanitizer watches the CUDA kernels' threads, simulated on the host, for races."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from host_kernels import COMPILER, WATCH_RACES

HERE = Path(__file__).parent
REPORT = "WARNING: ThreadSanitizer"
NEIGHBOURS = """
#include "intrinsics.h"
struct Arguments {{ int* out; }};
struct Shared {{ int cells[64]; }};
static void kernel(Arguments p) {{
  SHARED_MEMORY(Shared, shared);
  const int thread = threadIdx.x;
  shared.cells[thread] = thread;
  {between};
  p.out[{place}] = shared.cells[thread ^ 1];
}}
int main() {{
  int out[128];
  host_launch(kernel, 2, 64, sizeof(Shared), Arguments{{out}});
}}
"""


@cache
def sanitizer() -> str | None:
    """The library that must be loaded before Python, or None where it does not work."""
    if COMPILER is None:
        return None
    command = [COMPILER, "-print-file-name=libtsan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(library).is_absolute():
        return None
    environment = {**os.environ, "LD_PRELOAD": library}
    started = subprocess.run([sys.executable, "-c", "pass"], env=environment, capture_output=True)
    return library if started.returncode == 0 and not started.stderr else None


pytestmark = pytest.mark.skipif(sanitizer() is None, reason="needs g++ with ThreadSanitizer")


def watched(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    options = "exitcode=66 ignore_noninstrumented_modules=1"
    settings = {**os.environ, "TSAN_OPTIONS": options, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["scans", "convolutions", "steps"])
def test_no_barrier_is_missing(group: str) -> None:
    library = sanitizer()
    assert library is not None
    command = [sys.executable, HERE / "watched_cases.py", group]
    run = watched(command, LD_PRELOAD=library, **{WATCH_RACES: "1"})
    assert REPORT not in run.stderr, run.stderr[run.stderr.index(REPORT) :][:4000]
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.parametrize(
    ("between", "place", "races"),
    [
        ("", "blockIdx.x * 64 + thread", True),
        ("exchange(0, 1)", "blockIdx.x * 64 + thread", True),
        ("synchronize_warp()", "blockIdx.x * 64 + thread", False),
        ("synchronize_block()", "blockIdx.x * 64 + thread", False),
        ("synchronize_block()", "thread", True),
    ],
    ids=["nothing", "a shuffle", "warp barrier", "block barrier", "two blocks, one place"],
)
def test_what_no_barrier_orders_is_found(
    between: str, place: str, races: bool, tmp_path: Path
) -> None:
    assert COMPILER is not None
    source, program = tmp_path / "neighbours.cpp", tmp_path / "neighbours"
    source.write_text(NEIGHBOURS.format(between=between, place=place))
    flags = ["-std=c++17", "-O1", "-U_FORTIFY_SOURCE", "-g", "-w", "-fsanitize=thread", f"-I{HERE}"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    run = watched([program])
    assert (REPORT in run.stderr) == races, run.stderr[:4000]
    assert run.returncode == (66 if races else 0)
