"""Timing calls side by side."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from keelback.errors import InputError

# A call that takes longer than this, in seconds, is timed once.
SLOW = 10.0
# Calls shorter than this, in seconds, are repeated without a pause until they have taken so long.
BURST = 0.5

Around = Mapping[str, Callable[[], AbstractContextManager[object]]]
"""What to enter while a call is timed, by the name of the call."""


def _seconds(call: Callable[[], object], device: str, times: int = 1) -> float:
    if device != "cpu":
        torch.accelerator.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return (time.perf_counter() - start) / times


def interleaved_medians(
    calls: Mapping[str, Callable[[], object]],
    device: str,
    repeats: int,
    burst: float = BURST,
    around: Around | None = None,
) -> dict[str, float]:
    """Median time of each call in milliseconds, of `interleaved_times`."""
    times = interleaved_times(calls, device, repeats, burst, around)
    return {name: statistics.median(found) for name, found in times.items()}


def interleaved_times(
    calls: Mapping[str, Callable[[], object]],
    device: str,
    repeats: int,
    burst: float = BURST,
    around: Around | None = None,
) -> dict[str, list[float]]:
    """Times of each call in milliseconds: a burst of each after the other, over and over.

    Interleaving lets whatever else the machine does fall on all of them alike. A burst lasts about
    `burst` seconds, lest a short call be timed with the caches full of another's data. Each call is
    run once before, untimed, and once timed alone: more than `SLOW` seconds then are its only time.
    Each burst runs within what `around` has by its call's name, which is not timed.

    Raises:
        InputError: There are no repeats.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; it should be at least 1")

    def seconds(name: str, times: int) -> float:
        with around[name]() if around else nullcontext():
            return _seconds(calls[name], device, times)

    for name in calls:
        seconds(name, 1)
    warm = {name: seconds(name, 1) for name in calls}
    slow = {name: [seconds] for name, seconds in warm.items() if seconds > SLOW}
    quick = [name for name in calls if name not in slow]
    bursts = {name: max(1, round(burst / warm[name])) for name in quick}
    times: dict[str, list[float]] = {name: [] for name in quick}
    for _ in range(repeats):
        for name in quick:
            times[name].append(seconds(name, bursts[name]))
    times |= slow
    return {name: [1e3 * seconds for seconds in times[name]] for name in calls}
