"""Timing calls side by side."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from keelback.errors import InputError

# A call that takes longer than this, in seconds, is timed once.
SLOW = 10.0


def _seconds(call: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.accelerator.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def interleaved_medians(
    calls: Mapping[str, Callable[[], object]], device: str, repeats: int
) -> dict[str, float]:
    """Median time of each call in milliseconds: one after the other, over and over.

    Interleaving lets whatever else the machine does fall on all of them alike. Each is run once
    before, untimed; one that takes more than `SLOW` seconds then is not run again.

    Raises:
        InputError: There are no repeats.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; it should be at least 1")
    warm = {name: _seconds(call, device) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, seconds in warm.items():
        if seconds > SLOW:
            times[name].append(seconds)
    for _ in range(repeats):
        for name, call in calls.items():
            if warm[name] <= SLOW:
                times[name].append(_seconds(call, device))
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
