"""What an audit costs beside the model's plain forward pass: seconds and peak memory.

Each measurement runs in a process of its own, so that the peak is its own.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.errors import InputError, JobError

RUNS = {
    "audit": "audit",
    "forward": "forward pass, keelback's scan",
    "transformers": "forward pass, transformers alone",
}
"""What is measured, in this order, so that the audit is the first to need a compiled kernel."""


def benchmark(
    layers: int,
    d_model: int,
    length: int,
    device: str,
    repeats: int,
    *,
    with_transformers: bool,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Benchmark:
    """Seconds and peak memory of a forward pass and of an audit of one random Mamba.

    The first run in a process counts what a process does once: kernels compiled or read from
    their cache, the GPU's libraries started. `seconds` is the fastest of all runs.

    Args:
        layers, d_model: of the model; 24 and 768 are those of the published 130M.
        length: tokens; the audit's training length is half of it.
        device: "cpu" or "cuda".
        repeats: runs of each in its process; transformers alone runs once.
        with_transformers: also time the forward pass of transformers without keelback, which on a
            machine without mamba_ssm is a loop over the tokens and takes minutes.
        report: called with each row once it is measured.

    Measuring raises a JobError where a measurement fails.

    Raises:
        InputError: a size below 1.
    """
    sizes = {"layers": layers, "d_model": d_model, "length": length, "repeats": repeats}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")

    def measured(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            measured = _in_own_process(name, layers, d_model, length, device, repeats)
            row = {"run": RUNS[name], **measured}
            report(row)
            yield row

    rows = {RUNS[name]: name for name in RUNS if with_transformers or name != "transformers"}
    about = {**sizes, "device": device, "threads": torch.get_num_threads()}
    return Benchmark([Group(rows, measured)], _result, about)


def _result(found: Found) -> dict[str, Any]:
    """The rows, and how many times the audit takes what another run takes."""
    rows = {name: found[run] for name, run in RUNS.items() if run in found}
    audit = rows.pop("audit", None)
    ratios = {
        f"audit_over_{name}": {key: audit[key] / row[key] for key in ("seconds", "peak_gib")}
        for name, row in rows.items()
        if audit is not None
    }
    return {"rows": list(found.values()), **ratios}


def _in_own_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "keelback.benchmarks.audit_speed", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        last = finished.stderr.strip().splitlines()[-1:]
        raise JobError(f"measuring {arguments[0]} failed: {' '.join(last)}")
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def _measure(
    what: str, layers: int, d_model: int, length: int, device: str, repeats: int
) -> dict[str, float]:
    from keelback.audit import audit, fast_scans

    model, tokens = _random_mamba(layers, d_model, length, device)

    def forward() -> None:
        model(tokens, use_cache=False)

    def run_audit() -> None:
        audit(model, tokens, train_length=max(1, length // 2))

    run = run_audit if what == "audit" else forward
    with torch.no_grad(), nullcontext() if what == "transformers" else fast_scans(model):
        seconds = [_seconds(run, device) for _ in range(1 if what == "transformers" else repeats)]
    return {
        "first_seconds": seconds[0],
        "seconds": min(seconds),
        "peak_gib": _peak_bytes(device) / 2**30,
    }


def _random_mamba(layers: int, d_model: int, length: int, device: str) -> tuple[Any, torch.Tensor]:
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(num_hidden_layers=layers, hidden_size=d_model)
    with torch.device(device):
        model: Any = transformers.MambaForCausalLM(config)
    return model.eval(), torch.randint(config.vocab_size, (1, length), device=device)


def _seconds(run: Callable[[], None], device: str) -> float:
    _synchronise(device)
    began = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_bytes(device: str) -> float:
    """Of the process on the CPU, of what PyTorch allocated on the GPU."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    what, layers, d_model, length, device, repeats = sys.argv[1:]
    result = _measure(what, int(layers), int(d_model), int(length), device, int(repeats))
    print(json.dumps(result))
