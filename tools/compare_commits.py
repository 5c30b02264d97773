"""Time the scan and the decoding step of several commits side by side, on one machine in one go.

    python tools/compare_commits.py 1b21f5b 65084b9 HEAD --device cuda \\
        --out results/benchmarks/scan_commits_h100.json

The source of each commit is put into a folder of its own and served by a process of its own, whose
kernels are compiled from that commit's source. Runs alternate: one of each commit, over and over,
so that whatever else the machine does falls on all of them alike; a row holds the medians. On a
GPU caches are overwritten before each run. "slow" are inputs whose states outlive thousands of
steps (step sizes from 0.0005 to 0.05 by channel, A from -0.1 to -4). A step is many in a row, of
which the average counts. A commit that lacks a function has no number for it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ["8,2048,1536,16", "1,32768,1536,16", "256,500,16,4", "256,2000,16,4", "4096,1024,16,16"]
STEPS = ["1,1,1536,16", "16,1,1536,16", "256,1,1536,16"]
#: Steps in one timed run.
IN_A_ROW = 100
#: Written between timed runs on a GPU: several times its second-level cache.
FLUSH_BYTES = 1 << 30


def parser() -> argparse.ArgumentParser:
    import result_file

    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("commits", nargs="+", help="as git names them")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--shape", nargs="+", default=SHAPES, help="batch,length,channels,state")
    options.add_argument("--step", nargs="*", default=STEPS, help="the same, of length 1")
    options.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    options.add_argument("--repeats", type=int, default=15, help="timed runs; the median counts")
    result_file.add_options(options)
    return options


def main() -> None:
    import result_file

    given = parser().parse_args()
    record = result_file.started(given)
    named = [_git("rev-parse", "--short=12", f"{name}^{{commit}}") for name in given.commits]
    hashes = list(dict.fromkeys(found.decode().strip() for found in named))
    cases = [
        {"shape": shape, "dtype": dtype, "pass": pass_, "decay": decay, "device": given.device}
        for dtype in given.dtype
        for passes, shapes in ((("forward", "backward"), given.shape), (("step",), given.step))
        for shape in shapes
        for pass_ in passes
        for decay in (("as Mamba starts", "slow") if pass_ == "forward" else ("as Mamba starts",))
    ]
    with tempfile.TemporaryDirectory(prefix="keelback-commits-") as folder, ExitStack() as stack:
        servers = {
            commit: stack.enter_context(served(commit, Path(folder) / commit)) for commit in hashes
        }
        rows = [row(case, servers, given.repeats) for case in cases]
    result_file.write(given, record, {"commits": hashes, "rows": rows})


def row(
    case: dict[str, Any], servers: dict[str, "subprocess.Popen[str]"], repeats: int
) -> dict[str, Any]:
    """The median milliseconds of one case at each commit."""
    times: dict[str, list[float]] = {commit: [] for commit in servers}
    for repeat in range(repeats + 1):
        for commit, server in servers.items():
            if (found := ask(server, case)) is not None and repeat:  # The first compiles.
                times[commit].append(found)
    named = {
        "batch, length, channels, state": case["shape"].replace(",", ", "),
        "dtype": case["dtype"],
        "pass": case["pass"],
        "decay": case["decay"],
    }
    medians = {f"{c}, ms": statistics.median(ms) if ms else None for c, ms in times.items()}
    print(named | medians, file=sys.stderr, flush=True)
    return named | medians


def ask(server: "subprocess.Popen[str]", case: dict[str, Any]) -> float | None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(case) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    if not answer:
        raise SystemExit(f"the process of {server.args!r} ended at {case}")
    found: float | None = json.loads(answer)
    return found


@contextmanager
def served(commit: str, tree: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that times what it is asked for with the code of a commit."""
    tree.mkdir(parents=True, exist_ok=True)
    archive = _git("archive", commit, "src")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(tree)],
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: {done.stderr.decode().strip()}")
    return done.stdout


def serve(tree: Path) -> None:
    """Answer each case on standard input with its milliseconds, or null."""
    import keelback

    if not Path(keelback.__file__).is_relative_to(tree.resolve()):
        sys.exit(f"keelback comes from {keelback.__file__}, not from {tree}")
    known: tuple[str, Callable[[], float | None]] = ("", lambda: None)
    for line in sys.stdin:
        if line != known[0]:
            known = (line, timer(json.loads(line)))
        print(json.dumps(known[1]()), flush=True)


def timer(case: dict[str, Any]) -> Callable[[], float | None]:
    """What runs a case once and says how long it took."""
    sizes = [int(size) for size in case["shape"].split(",")]
    dtype, device = getattr(torch, case["dtype"]), case["device"]
    try:
        if case["pass"] == "step":
            call, runs = step(sizes, dtype, device), IN_A_ROW
        else:
            call, runs = scan(sizes, dtype, device, case["decay"] == "slow", case["pass"]), 1
    except ImportError:
        return lambda: None
    run = timed_on_gpu if device == "cuda" else timed_on_cpu
    return lambda: run(call) / runs


def scan(
    sizes: Sequence[int], dtype: torch.dtype, device: str, slow: bool, pass_: str
) -> Callable[[], object]:
    from keelback.scan import selective_scan

    batch, length, channels, state = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    delta = torch.rand(batch, length, channels, generator=generator) * 0.1
    A = -torch.arange(1.0, state + 1).repeat(channels, 1)
    if slow:
        delta *= torch.logspace(-2, 0, channels)
        A = -torch.linspace(0.1, 4, state).repeat(channels, 1)
    u, delta, A = normal(batch, length, channels), delta.to(device, dtype), A.to(device)
    B, C = normal(batch, length, 1, state), normal(batch, length, 1, state)
    if pass_ == "forward":
        return lambda: selective_scan(u, delta, A, B, C)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C)]
    y: Any = selective_scan(u, delta, A, B, C)
    dy = normal(batch, length, channels)
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def step(sizes: Sequence[int], dtype: torch.dtype, device: str) -> Callable[[], object]:
    from keelback.scan import selective_state_update

    batch, _, channels, state = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    held = torch.zeros(batch, channels, state, device=device)
    x, dt = normal(batch, channels, dtype=dtype), normal(batch, channels, dtype=dtype)
    A = -normal(channels, state).abs() - 0.1
    B, C = normal(batch, state, dtype=dtype), normal(batch, state, dtype=dtype)

    def run() -> None:
        with torch.no_grad():
            for _ in range(IN_A_ROW):
                selective_state_update(held, x, dt, A, B, C, dt_softplus=True)

    return run


def timed_on_cpu(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def timed_on_gpu(call: Callable[[], object]) -> float:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(4):
        flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        main()
