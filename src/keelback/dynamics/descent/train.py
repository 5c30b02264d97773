"""Trainings of any shapes and settings, in batches of those that can be trained together."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import torch

from keelback.dynamics.descent.batch import FRESH_BLOCK, Batch
from keelback.dynamics.descent.history import GatedHistory
from keelback.dynamics.descent.population import descend_population
from keelback.dynamics.descent.training import GatedTraining
from keelback.errors import InputError

_GPU_BATCH = 12 * 2**30
"""Bytes of a GPU that a batch takes at most: they fill it, and several commands can share it."""


def train_gated(
    trainings: Sequence[GatedTraining],
    *,
    device: str = "cpu",
    backend: str | None = None,
    memory: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[GatedHistory]:
    """Train every one of `trainings`; equal shapes are trained together, in batches that fit.

    Those of equal shape run side by side along a replica axis, and leave it when they reach their
    target, run out of epochs, or diverge. What a training returns depends on its own configuration
    alone, not on the company it ran in.

    Args:
        trainings: any mix of settings and seeds.
        device: where to train, "cpu" or "cuda". Trainings on the population run on the CPU,
            side by side in as many threads as Numba may use.
        backend: of the gradient; see `keelback.dynamics.gradient.hinge_objective`.
        memory: bytes a batch may take (1 GiB on the CPU; on a GPU 12 GiB or 40% of what is free,
            whichever is less).
        on_progress: called with the number of trainings that have just finished.

    Returns:
        The histories, in the order of `trainings`.

    Raises:
        InputError: when `trainings` is empty.

    Examples:
        >>> vote = MajorityVoting(0.6, 0.1, length=20, dim=16)
        >>> [history] = train_gated([GatedTraining(vote, samples=200, width=20, epochs=300)])
        >>> history.status
        'reached'
    """
    if not trainings:
        raise InputError("gradient descent: there is nothing to train; give at least one trial")
    if memory is None:
        memory = 2.0**30
        if device.startswith("cuda"):
            memory = min(_GPU_BATCH, 0.4 * torch.cuda.mem_get_info()[0])
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    histories: dict[int, GatedHistory] = {}
    exact = [i for i, training in enumerate(trainings) if training.source == "population"]
    with ThreadPoolExecutor(numba.get_num_threads()) as threads:
        found = threads.map(descend_population, [trainings[i] for i in exact])
        for index, history in zip(exact, found, strict=True):
            histories[index] = history
            if on_progress is not None:
                on_progress(1)
    for index, training in enumerate(trainings):
        if training.source != "population":
            groups[_shape(training)].append(index)
    for group in groups.values():
        room = max(1, int(memory / _bytes(trainings[group[0]], device)))
        for start in range(0, len(group), room):
            chosen = group[start : start + room]
            batch = Batch([trainings[i] for i in chosen], device, backend)
            for replica, history in batch.run():
                histories[chosen[replica]] = history
                if on_progress is not None:
                    on_progress(1)
    return [histories[index] for index in range(len(trainings))]


def _shape(training: GatedTraining) -> tuple[object, ...]:
    return (
        training.pattern.length,
        training.pattern.dim,
        training.samples,
        training.test_samples,
        training.width,
        training.epochs,
        training.source == "fresh",
        training.mixing == "gaussian",
        training.noise_free,
        training.optimizer,
        training.schedule,
        training.symmetry,
    )


def _bytes(training: GatedTraining, device: str) -> float:
    length, dim = training.pattern.length, training.pattern.dim
    sequence = 4 * (2 * length * dim + length * length)
    if training.noise_free:
        sequence = 12 * length
    copies = 2 if device == "cpu" else 3
    total = copies * sequence * (training.samples + training.test_samples)
    if training.source == "fresh":
        ahead = FRESH_BLOCK[torch.device(device).type]
        total += 4 * max(ahead, training.samples * length * dim)
    return float(total)
