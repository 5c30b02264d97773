"""The store of a sweep: a directory with one folder a finished run.

    DIR/manifest.json            the store's version
    DIR/lock                     byte ranges that sweeps lock for the batches they execute
    DIR/runs/NAME/run.json       configuration, result, provenance
    DIR/runs/NAME/history.parquet
    DIR/runs/NAME/model.safetensors

A folder under `runs` is complete: it is written under another name and renamed, so a process that
is killed leaves nothing that looks finished.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.errors import InputError
from keelback.experiments.run import Run, RunResult, Scalar

STORE_VERSION = 1

_MANIFEST, _LOCK, _RUNS = "manifest.json", "lock", "runs"
_RUN, _HISTORY = "run.json", "history.parquet"


@dataclass(frozen=True)
class StoredRun:
    """A finished run as the store holds it."""

    name: str
    folder: Path
    fields: Mapping[str, Any]
    summary: Mapping[str, Scalar]
    provenance: Mapping[str, Any]

    def history(self) -> list[dict[str, Scalar]]:
        """The row of each epoch."""
        import polars as pl

        path = self.folder / _HISTORY
        return pl.read_parquet(path).to_dicts() if path.exists() else []


class Store:
    """Finished runs in a directory; safe to write from several processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._runs = self.directory / _RUNS

    @classmethod
    def create(cls, directory: Path) -> "Store":
        """Open the store in `directory`, making it where there is none.

        Raises:
            InputError: the directory is a file, cannot be written, holds something else, or holds
                a store of another version.
        """
        store = cls(directory)
        if store._manifest_path.exists():
            store._check_version()
            _require_writable(store.directory)
            return store
        _require_empty_or_absent(store.directory)
        try:
            store._runs.mkdir(parents=True, exist_ok=True)
            manifest = json.dumps({"format": "keelback-store", "version": STORE_VERSION})
            write_atomically(store._manifest_path, manifest)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from None
        return store

    @classmethod
    def open(cls, directory: Path) -> "Store":
        """Open an existing store.

        Raises:
            InputError: there is none in `directory`, or it is of another version.
        """
        store = cls(directory)
        if not store._manifest_path.is_file():
            raise InputError(f"{directory} holds no keelback sweep (no {_MANIFEST} in it)")
        store._check_version()
        return store

    @property
    def _manifest_path(self) -> Path:
        return self.directory / _MANIFEST

    def _check_version(self) -> None:
        try:
            manifest = json.loads(self._manifest_path.read_text())
            version = manifest["version"] if manifest["format"] == "keelback-store" else None
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._manifest_path} is not a keelback manifest; it was damaged or edited"
            ) from None
        if version != STORE_VERSION:
            raise InputError(
                f"{self.directory} was written by store version {version}; this keelback reads "
                f"version {STORE_VERSION}: name another directory, or use the one that wrote it"
            )

    def __contains__(self, run: Run) -> bool:
        return (self._runs / run.name / _RUN).is_file()

    def get(self, name: str) -> StoredRun:
        """One finished run by name.

        Raises:
            InputError: there is no such run, or its record was damaged or edited.
        """
        folder = self._runs / name
        path = folder / _RUN
        if not path.is_file():
            raise InputError(f"{self.directory} has no run {name}")
        try:
            record = json.loads(path.read_text())
            return StoredRun(name, folder, record["run"], record["summary"], record["provenance"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged; delete {folder} to run it again") from None

    def __iter__(self) -> Iterator[StoredRun]:
        for folder in sorted(self._runs.iterdir()):
            if not folder.name.startswith("."):
                yield self.get(folder.name)

    def add(self, run: Run, result: RunResult, provenance: Mapping[str, Any]) -> None:
        """Write a finished run, whole or not at all; a run that is there already stays."""
        self._runs.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=self._runs))
        try:
            _write_run(partial, run, result, provenance)
            os.rename(partial, self._runs / run.name)
        except OSError:
            if run not in self:
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the right to execute the batch `key`; gives False where another process holds it.

        The right ends with the process, however that ends: it is a lock on one byte of one file.
        """
        byte = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
        with (self.directory / _LOCK).open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except BlockingIOError:
                yield False
                return
            yield True


def _write_run(folder: Path, run: Run, result: RunResult, provenance: Mapping[str, Any]) -> None:
    if result.history:
        import polars as pl

        rows = pl.DataFrame([dict(row) for row in result.history], infer_schema_length=None)
        rows.write_parquet(folder / _HISTORY)
    if result.weights:
        from keelback.models import WEIGHTS_FILE, save_weights

        save_weights(result.weights, result.model, folder / WEIGHTS_FILE)
    record = {"run": run.fields(), "summary": result.summary, "provenance": dict(provenance)}
    (folder / _RUN).write_text(json.dumps(record, indent=1, allow_nan=False))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _require_empty_or_absent(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; --out needs a directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory} is not empty and holds no keelback sweep; name a new or empty directory"
        )


def _require_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory} is not writable")
