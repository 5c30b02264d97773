"""One decoding step of a selective scan beside mamba-ssm's, for batches of sequences."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.scan_cuda import medians
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_peers import load_peers
from keelback.benchmarks.timing import interleaved_medians
from keelback.errors import InputError, JobError
from keelback.scan import selective_state_update

#: Steps of one timed run of the calls, whose cost is then mostly the host's.
STEPS = 100
#: Seconds of such runs in a row.
BURST = 0.03

Update = Callable[..., Tensor]


def _mamba_ssm() -> Update:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    theirs: Update = selective_state_update
    return theirs


def _peers(required: Sequence[str]) -> dict[str, Update]:
    for name in required:
        if name != "mamba_ssm":
            raise InputError(f"peer is {name!r}; it should be mamba_ssm")
    return load_peers({"mamba_ssm": _mamba_ssm}, required)


def _operands(batch: int, channels: int, state: int, dtype: torch.dtype, device: str) -> list[Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    return [
        normal(batch, channels, dtype=dtype),
        normal(batch, channels, dtype=dtype),
        -normal(channels, state).abs() - 0.1,
        normal(batch, state, dtype=dtype),
        normal(batch, state, dtype=dtype),
        normal(channels),
        normal(batch, channels, dtype=dtype),
        normal(channels),
        True,
    ]


def _steps(
    update: Update, state: Tensor, operands: Sequence[Any], count: int
) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for _ in range(count):
                update(state, *operands)

    return run


def compare_steps(
    batches: Sequence[int],
    device: str,
    dtype: str,
    repeats: int,
    channels: int,
    state: int,
    required: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Time `selective_state_update` and its peer, with gate, skip, bias and softplus.

    The peer is left out where it is not installed, unless "mamba_ssm" is required.

    Returns:
        For each batch a row of the pass "call", the time of a call when many follow each other;
        on a GPU before it one of the pass "kernel", the time on the GPU alone with cold caches.

    Raises:
        InputError: The dtype or a required peer is unknown.
        JobError: The peer's output is not ours, or a required peer is not installed.
    """
    stored = dtype_named(dtype)
    if stored == torch.float64:
        raise InputError("dtype is 'float64'; it should be one of float32, bfloat16, float16")
    peers = _peers(required)
    rows = []
    for batch in batches:
        operands = _operands(batch, channels, state, stored, device)
        updates: dict[str, Update] = {"ours": selective_state_update, **peers}
        states = {name: torch.zeros(batch, channels, state, device=device) for name in updates}
        outputs = [update(states[name], *operands) for name, update in updates.items()]
        if any((outputs[0] - y).norm() > 1e-2 * outputs[0].norm() for y in outputs):
            raise JobError(f"the steps of {', '.join(updates)} differ at batch {batch}")
        many = {name: _steps(f, states[name], operands, STEPS) for name, f in updates.items()}
        of_call = interleaved_medians(many, device, repeats, BURST)
        times = {"call": {name: total / STEPS for name, total in of_call.items()}}
        if device != "cpu":
            one = {name: _steps(f, states[name], operands, 1) for name, f in updates.items()}
            times = {"kernel": medians(one, repeats), **times}
        for pass_, found in times.items():
            ours_ms = found.pop("ours")
            row = {
                "batch": batch,
                "length": 1,
                "channels": channels,
                "state": state,
                "dtype": dtype,
                "pass": pass_,
                "ours_ms": ours_ms,
                "peers": found,
            }
            rows.append({**row, **({"ratio": min(found.values()) / ours_ms} if found else {})})
    return rows
