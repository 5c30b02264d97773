"""One big training into a store: checkpoints, several processes, trackers."""

import time
from contextlib import nullcontext

from keelback.device import default_device
from keelback.sweeps.run import Progress
from keelback.sweeps.store import Store, StoredRun
from keelback.sweeps.training_run import TrainingRun
from keelback.sweeps.worker import provenance_of
from keelback.training import Checkpoint, Place

_CHECKPOINTS = "checkpoints"
_POLL_SECONDS = 1.0


def train_single(
    run: TrainingRun,
    store: Store,
    *,
    place: Place | None = None,
    recompute: bool = False,
    checkpoint_seconds: float = 0.0,
    progress: Progress = lambda share: None,
) -> StoredRun:
    """Train `run` into `store`, or take it from there.

    The training is kept in `DIR/checkpoints` while it is under way: at the end of an epoch, if the
    last time was `checkpoint_seconds` ago, and when SIGTERM or SIGINT comes. The next call goes on
    from there. Where another process trains the same run into the same store, its result is waited
    for.

    Args:
        run: what to train.
        store: where to.
        place: the device, and the processes that share the work; all of them make this call.
        recompute: compute layers again in the backward pass instead of keeping what they computed.
        checkpoint_seconds: at least this long between two checkpoints; 0 for one each epoch.
        progress: told the share of the epochs that is done.

    Raises:
        InputError: `recompute`, and the model has no repeated layers.
        JobError: the training was asked to stop, or the store cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> model = {"kind": "selective-ssm", "vocab_size": 2, "d_model": 4}
        >>> settings = {"seq_len": 5, "n_train": 20, "n_test": 20}
        >>> given = {"model": model, "task_settings": settings, "recipe": {"epochs": 1}}
        >>> run = TrainingRun(task="majority", seed=1, **given)
        >>> with Store.created(Path("runs")) as store:
        ...     stored = train_single(run, store)
        >>> stored.name == run.name
        True
    """
    place = place or Place(default_device())
    checkpoint = Checkpoint(
        store.directory / _CHECKPOINTS / f"{run.name}.safetensors", checkpoint_seconds
    )

    def main_says(answer: bool) -> bool:
        return place.any(place.is_main and answer)

    while not main_says(run in store):
        with store.claim(run.batch_key()) if place.is_main else nullcontext(False) as claimed:
            may_train = main_says(claimed and run not in store)
            if may_train:
                started = time.monotonic()
                result = run.execute_alone(
                    progress, place=place, checkpoint=checkpoint, recompute=recompute
                )
                seconds = round(time.monotonic() - started, 3)
                if place.is_main:
                    store.add(run, result, provenance_of(run) | {"seconds_of_batch": seconds})
        if not may_train:
            time.sleep(_POLL_SECONDS)
    if place.is_main:
        checkpoint.remove()
    return store.get(run.name)
