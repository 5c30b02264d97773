"""Checkpoints of a training under way, and the signals that ask for one."""

import contextlib
import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from keelback.data import Split
from keelback.errors import InputError, JobError
from keelback.files import parsed_json, remove_with_parts, replacing
from keelback.training._state import TrainingState
from keelback.training.place import Place
from keelback.training.recipe import Recipe

_FORMAT = "keelback-checkpoint-2"

_log = logging.getLogger("keelback")


class Checkpoint:
    """A file that holds a training under way, written in one step: tensors, and JSON in the header.

    It is read only by the training that it belongs to, which `identity` names; a file that is
    another's or of another format counts as none. So does a damaged one, which is kept aside under
    the name `*.damaged`. The logger `keelback` tells which of these it was.

    Args:
        path: of the file.
        seconds: how long after the last one the next is written, at an epoch's end; 0 for every
            epoch. One is written whenever the process is asked to stop.

    Examples:
        >>> from pathlib import Path
        >>> Checkpoint(Path("training.safetensors"), seconds=600).path.name
        'training.safetensors'
    """

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self.path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether an epoch that ends now should be kept."""
        return time.monotonic() - self._last >= self._seconds

    def write(self, state: TrainingState, identity: str) -> None:
        """Replace the file.

        Raises:
            JobError: it cannot be written.
        """
        metadata = {"format": _FORMAT, "identity": identity, "facts": json.dumps(state.facts())}
        tensors = {name: x.detach().cpu().contiguous() for name, x in state.tensors().items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial:
                save_file(tensors, partial, metadata)
        except (OSError, SafetensorError) as error:
            raise JobError(f"cannot write the checkpoint {self.path}: {error}") from None
        self._last = time.monotonic()

    def read(self, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and facts of the training of this identity, where they are kept.

        Raises:
            InputError: the parameters are not finite real numbers.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata: Mapping[str, str] = file.metadata() or {}
                if (metadata.get("format"), metadata.get("identity")) != (_FORMAT, identity):
                    _log.warning("%s is of another training: beginning anew", self.path)
                    return None
                facts: dict[str, Any] = parsed_json(metadata["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            _log.warning(
                "the checkpoint %s is damaged (%s): beginning anew; it is kept as %s",
                self.path,
                error,
                aside.name,
            )
            return None
        parameters = tensors.get("flat")
        if parameters is None or not (
            parameters.is_floating_point() and bool(torch.isfinite(parameters).all())
        ):
            raise InputError(
                f"the checkpoint {self.path} holds parameters that are not finite real numbers: it "
                "was damaged or edited; delete it to begin the training again"
            )
        return tensors, facts

    def remove(self) -> None:
        """The training has ended; a folder that held nothing else goes too."""
        with contextlib.suppress(OSError):
            remove_with_parts(self.path)
            self.path.parent.rmdir()


def training_identity(
    state: TrainingState, splits: Sequence[Split], recipe: Recipe, seeds: Sequence[int]
) -> str:
    """What makes a training the same one: its start, its data, its order and its recipe."""
    digest = hashlib.sha256(recipe.model_dump_json().encode())
    digest.update(json.dumps(list(seeds)).encode())
    for tensor in (state.replicas.flat, *(x for s in splits for x in (s.tokens, s.labels))):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class StopRequest:
    """Whether SIGTERM or SIGINT has come since the block began."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def seen_by_any(self, place: Place) -> bool:
        """Whether it has come to any of the processes, which then all stop at the same step."""
        if place.any(bool(self)) and self.signal is None:
            self.signal = signal.SIGTERM
        return bool(self)

    def raise_for(self, epoch: int, step: int) -> None:
        """Raise what the signal calls for, once the training is kept."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise JobError(
            f"stopped by {signal.Signals(self.signal or signal.SIGTERM).name} in epoch {epoch} "
            f"after step {step}; the same command continues from there"
        )


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request for as long as the block runs.

    Signals that the process ignores stay ignored; outside the main thread, where Python lets nobody
    listen for signals, the request never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: Any) -> None:
        request.signal = signal.Signals(number)

    watched = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]
    before = {number: signal.signal(number, note) for number in watched}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
