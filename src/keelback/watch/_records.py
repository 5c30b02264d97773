"""What a store holds of its runs: records of the finished ones, checkpoints of those under way."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.errors import InputError, in_one_line
from keelback.files import parsed_json
from keelback.sweeps.store import Store, StoredRun
from keelback.watch._snapshot import Points, curves_of, require_inside

_LARGEST_HISTORY = 64 * 2**20
"""Bytes of a history that are read; one of a thousand epochs has about 0.2 MB."""


@dataclass(frozen=True)
class Checkpointed:
    """A training that is under way or was stopped: the last finished epoch, and its history."""

    name: str
    epoch: int
    written: float
    history: list[Mapping[str, Any]]
    diverged: bool


class Records:
    """Reads the runs of a store; a finished run is read once, for it does not change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[str, tuple[tuple[int, int], StoredRun | str]] = {}
        self._curves: dict[str, dict[str, Points]] = {}

    def finished(self) -> tuple[list[StoredRun], dict[str, str]]:
        """The finished runs that can be read, and what is wrong with each of the others."""
        runs, problems = [], {}
        names = self._store.names()
        for name in names:
            found = self._run(name)
            if isinstance(found, str):
                problems[name] = found
            else:
                runs.append(found)
        for name in self._runs.keys() - set(names):
            del self._runs[name]
            self._curves.pop(name, None)
        return runs, problems

    def _run(self, name: str) -> StoredRun | str:
        record = self._store.directory / "runs" / name / "run.json"
        try:
            status = record.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = (0, 0)
        if self._runs.get(name, (None,))[0] != stamp:
            self._curves.pop(name, None)
            self._runs[name] = stamp, self._read(name, record)
        return self._runs[name][1]

    def _read(self, name: str, record: Path) -> StoredRun | str:
        try:
            self._require_inside(record)
            run = self._store.get(name)
            if not all(isinstance(x, Mapping) for x in (run.fields, run.summary, run.provenance)):
                raise InputError(f"{record} is damaged")
        except Exception as error:  # whatever a damaged record raises
            return in_one_line(error)
        return run

    def curves(self, run: StoredRun) -> dict[str, Points]:
        """The curves of a finished run, by epoch.

        Raises:
            InputError: its history cannot be read.
        """
        if run.name not in self._curves:
            self._curves[run.name] = self._read_curves(run)
        return self._curves[run.name]

    def _read_curves(self, run: StoredRun) -> dict[str, Points]:
        import polars as pl

        path = run.folder / "history.parquet"
        if not os.path.lexists(path):
            return {}
        self._require_inside(path)
        if not path.is_file() or path.stat().st_size > _LARGEST_HISTORY:
            raise InputError(f"{path} is no history of a run")
        try:
            return curves_of(run.history(), "epoch")
        except (Exception, pl.exceptions.PanicException) as error:
            raise InputError(f"{path} is damaged: {in_one_line(error)}") from None

    def checkpoints(self) -> tuple[list[Checkpointed], dict[str, str]]:
        """The trainings that have a checkpoint, and what is wrong with the other files there."""
        folder = self._store.directory / "checkpoints"
        found, problems = [], {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith("."):
                continue  # Being written.
            if path.name.endswith(".damaged"):
                problems[path.name] = "was found damaged, and the training began anew"
                continue
            try:
                self._require_inside(path)
                found.append(_checkpointed(path))
            except FileNotFoundError:
                continue  # The training has ended at this moment.
            except Exception as error:  # whatever a damaged file raises
                problems[path.name] = f"cannot be read: {in_one_line(error)}"
        return found, problems

    def _require_inside(self, path: Path) -> None:
        require_inside(path, self._store.directory)


def _checkpointed(path: Path) -> Checkpointed:
    """From the header alone; the tensors are not read."""
    from safetensors import safe_open

    written = path.stat().st_mtime
    if not path.is_file():
        raise InputError(f"{path} is no file")
    with safe_open(path, "pt") as file:
        facts = parsed_json((file.metadata() or {})["facts"])
    histories = [[row for row in rows if isinstance(row, Mapping)] for rows in facts["histories"]]
    return Checkpointed(
        path.stem,
        int(facts["epoch"]) - 1,
        written,
        histories[0] if histories else [],
        any(facts["divergences"]),
    )
