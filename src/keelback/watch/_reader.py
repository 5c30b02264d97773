"""Which kind of folder it is, and the reader of it."""

import os
from pathlib import Path
from typing import Protocol

from keelback.errors import InputError
from keelback.watch._snapshot import Snapshot
from keelback.watch._store import StoreReader
from keelback.watch._trainer import TrainerReader, is_trainer_folder


class Reader(Protocol):
    """Takes snapshots of one folder.

    Examples:
        >>> class Still:
        ...     def read(self):
        ...         return Snapshot("out", "sweep", "finished", "1 run finished")
        >>> reader: Reader = Still()
        >>> reader.read().state
        'finished'
    """

    def read(self) -> Snapshot:
        """The folder as it is now.

        Raises:
            InputError: nothing in it can be read any more.
        """


def reader_of(directory: Path, epochs: int | None = None) -> Reader:
    """The reader of a folder: a store of keelback, or what the `Trainer` of transformers writes.

    Args:
        directory: the folder.
        epochs: how many epochs a training under way was asked for, which its checkpoint does not
            say; for the estimate of the time left.

    Raises:
        InputError: it is absent, a file, empty or of another kind; or `epochs` is given for a
            folder that says itself how far it goes.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.sweeps import Store
        >>> store = Store.create(Path("runs"))
        >>> reader_of(Path("runs")).read().line
        'nothing is finished yet, and no process works on it: about to start, or stopped'
    """
    if not directory.is_dir():
        state = "is a file" if directory.exists() else "does not exist"
        raise InputError(f"{directory} {state}; name the folder of a sweep or a training")
    try:
        entries = set(os.listdir(directory))
    except OSError as error:
        raise InputError(f"{directory} cannot be read: {error.strerror}") from None
    if not entries:
        raise InputError(f"{directory} is empty: no sweep and no training has begun in it")
    if "manifest.json" in entries:
        return StoreReader(directory, epochs)
    if is_trainer_folder(directory):
        if epochs is not None:
            raise InputError(f"--epochs has no effect: {directory} says itself how far it goes")
        return TrainerReader(directory)
    if "runs" in entries and "lock" in entries:
        raise InputError(f"{directory} has lost its manifest.json: a half-copied store?")
    raise InputError(
        f"{directory} holds neither a keelback sweep (no manifest.json in it) nor checkpoints of "
        "a training (no checkpoint-N/trainer_state.json)"
    )
