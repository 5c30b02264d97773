"""What an audit costs beside the model's plain forward pass: seconds and peak memory.

Each measurement runs in a process of its own, so that the peak is its own.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from keelback.errors import InputError, JobError

WARM_UP_TOKENS = 64


def audit_speed(
    layers: int, d_model: int, length: int, device: str, *, with_transformers: bool
) -> dict[str, Any]:
    """Seconds and peak memory of a forward pass and of an audit of one random Mamba.

    Args:
        layers, d_model: of the model; 24 and 768 are those of the published 130M.
        length: tokens; the audit's training length is half of it.
        device: "cpu" or "cuda".
        with_transformers: also time the forward pass of transformers without keelback, which on a
            machine without mamba_ssm is a loop over the tokens and takes minutes.

    Raises:
        InputError: a size below 1.
        JobError: a measurement fails.
    """
    for name, value in (("layers", layers), ("d_model", d_model), ("length", length)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    names = ["forward", "audit", *(["transformers"] if with_transformers else [])]
    sizes = (str(layers), str(d_model), str(length), device)
    rows = {name: _in_own_process(name, *sizes) for name in names}
    return {
        "layers": layers,
        "d_model": d_model,
        "length": length,
        "device": device,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "audit_over_forward": rows["audit"]["seconds"] / rows["forward"]["seconds"],
        "memory_over_forward": rows["audit"]["peak_bytes"] / rows["forward"]["peak_bytes"],
    }


def _in_own_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "keelback.benchmarks.audit_speed", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        last = finished.stderr.strip().splitlines()[-1:]
        raise JobError(f"measuring {arguments[0]} failed: {' '.join(last)}")
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def _measure(what: str, layers: int, d_model: int, length: int, device: str) -> Mapping[str, float]:
    from keelback.audit import audit, fast_scans

    model, tokens = _random_mamba(layers, d_model, length, device)

    def forward() -> None:
        model(tokens, use_cache=False)

    def run_audit() -> None:
        audit(model, tokens, train_length=max(1, length // 2))

    runs: dict[str, Callable[[], None]] = {"audit": run_audit}
    run = runs.get(what, forward)
    with torch.no_grad(), nullcontext() if what == "transformers" else fast_scans(model):
        model(tokens[:, :WARM_UP_TOKENS], use_cache=False)
        _synchronise(device)
        began = time.perf_counter()
        run()
        _synchronise(device)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": _peak_bytes(device)}


def _random_mamba(layers: int, d_model: int, length: int, device: str) -> tuple[Any, torch.Tensor]:
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(num_hidden_layers=layers, hidden_size=d_model)
    model: Any = transformers.MambaForCausalLM(config)
    model.eval().to(device)
    return model, torch.randint(config.vocab_size, (1, length), device=device)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_bytes(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    what, *sizes, device = sys.argv[1:]
    layers, d_model, length = map(int, sizes)
    print(json.dumps(_measure(what, layers, d_model, length, device)))
