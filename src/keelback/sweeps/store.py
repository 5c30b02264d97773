"""The store of a sweep: a directory with one folder a finished run.

    DIR/manifest.json            the store's version, and what made it
    DIR/lock                     byte ranges that sweeps lock for the batches they execute
    DIR/runs/NAME/run.json       configuration, result, provenance, sizes of the other files
    DIR/runs/NAME/history.parquet
    DIR/runs/NAME/model.safetensors
    DIR/plugins/STEM-DIGEST.py   the plugin files that runs need, as they were

A folder under `runs` is complete: it is written under another name and renamed, so a process that
is killed leaves nothing that looks finished.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from keelback.errors import InputError, JobError
from keelback.files import filling, parsed_json, write_atomically, write_json
from keelback.plugins import PluginFile, files_of, loaded_plugins
from keelback.sweeps.claims import byte_of, held, lock
from keelback.sweeps.provenance import provenance as provenance_now
from keelback.sweeps.run import NAME_LENGTH, Run, RunResult, Scalar, name_of

STORE_VERSION = 1

_FORMAT = "keelback-store"
_MANIFEST, _LOCK, _RUNS, _PLUGINS = "manifest.json", "lock", "runs", "plugins"
_RUN, _HISTORY = "run.json", "history.parquet"
_NAME = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}")


@dataclass(frozen=True)
class StoredRun:
    """A finished run as the store holds it.

    Examples:
        >>> from pathlib import Path
        >>> run = StoredRun("4f2a", Path("runs/4f2a"), {"seed": 1}, {"test_accuracy": 0.9}, {})
        >>> run.summary["test_accuracy"], run.history()
        (0.9, [])
    """

    name: str
    folder: Path
    fields: Mapping[str, Any]
    summary: Mapping[str, Scalar]
    provenance: Mapping[str, Any]
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the run that are no part of its name, such as where its data lie."""

    def history(self) -> list[dict[str, Scalar]]:
        """The row of each epoch."""
        import polars as pl

        path = self.folder / _HISTORY
        return pl.read_parquet(path).to_dicts() if path.exists() else []


class Store:
    """Finished runs in a directory; safe to write from several processes.

    Examples:
        >>> from pathlib import Path
        >>> with Store.created(Path("runs")) as store:
        ...     print(store.names())
        []
    """

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
            manifest = {
                "format": _FORMAT,
                "version": STORE_VERSION,
                "made_by": provenance_now(),
            }
            write_json(store._manifest_path, manifest)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from None
        return store

    @classmethod
    @contextlib.contextmanager
    def created(cls, directory: Path) -> Iterator["Store"]:
        """`create`, for the block: where the input is found wrong in it, a new store goes again.

        Raises:
            InputError: as `create`, and what the block raises.
        """
        absent = [path for path in (directory, *directory.parents) if not path.exists()]
        fresh = bool(absent) or (directory.is_dir() and not any(directory.iterdir()))
        try:
            yield cls.create(directory)
        except InputError:
            runs = directory / _RUNS
            if fresh and not (runs.is_dir() and any(runs.iterdir())):
                for path in directory.iterdir() if directory.is_dir() else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                for path in absent:
                    if path.is_dir():
                        path.rmdir()
            raise

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
            manifest = parsed_json(self._manifest_path.read_text())
            version, ours = manifest["version"], manifest["format"] == _FORMAT
        except (OSError, ValueError, KeyError, TypeError):
            version, ours = None, False
        if not ours:
            raise InputError(
                f"{self._manifest_path} is not a keelback manifest: another program's, damaged or "
                "edited; name another directory"
            )
        if version != STORE_VERSION:
            raise InputError(
                f"{self.directory} was written by store version {version}; this keelback reads "
                f"version {STORE_VERSION} and cannot convert it: name another directory, or use "
                "the keelback that wrote it"
            )

    def __contains__(self, run: Run) -> bool:
        return (self._runs / run.name).is_dir()

    def get(self, name: str) -> StoredRun:
        """One finished run by name.

        Raises:
            InputError: there is no such run, or its record was damaged, edited or half copied.
        """
        folder = self._runs / name
        path = folder / _RUN
        if not folder.is_dir():
            raise InputError(f"{self.directory} has no run {name}")
        cure = f"delete {folder} to run it again"
        if not path.is_file():
            raise InputError(f"{path} is missing: a half-copied store? {cure}")
        try:
            record = parsed_json(path.read_text())
            stored = StoredRun(
                name,
                folder,
                record["run"],
                record["summary"],
                record["provenance"],
                record.get("circumstances", {}),
            )
            sizes = dict(record.get("files", {}))
            named = name_of(stored.fields)
            edited = record.get("digest") not in (None, _digest(stored.fields, stored.summary))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path} is damaged; {cure}") from None
        if named != name:
            raise InputError(f"{path} was edited: its configuration is that of run {named}; {cure}")
        if edited:
            raise InputError(f"{path} was edited: its summary is not what the run left; {cure}")
        for file, size in sizes.items():
            found = _size(folder / file)
            if found != size:
                state = "missing" if found is None else f"{found} bytes long, not {size}"
                raise InputError(f"{folder / file} is {state}: a half-copied store? {cure}")
        return stored

    def names(self) -> list[str]:
        """The names of all finished runs, sorted."""
        if not self._runs.is_dir():
            return []
        entries = (entry.name for entry in os.scandir(self._runs))
        return sorted(name for name in entries if _NAME.fullmatch(name))

    def __iter__(self) -> Iterator[StoredRun]:
        return (self.get(name) for name in self.names())

    def add(self, run: Run, result: RunResult, provenance: Mapping[str, Any]) -> None:
        """Write a finished run, whole or not at all; a run that is there already stays.

        Raises:
            JobError: the store cannot be written: the disk is full, the directory has vanished.
        """
        with self._telling_failures():
            self._require_presence()
            self._runs.mkdir(exist_ok=True)
            self.keep(files_of(run.parts()).values())
            try:
                with filling(self._runs / run.name) as partial:
                    _write_run(partial, run, result, provenance)
                    partial.chmod(self._runs.stat().st_mode)  # Shared as the store is.
            except OSError:
                if run not in self:
                    raise

    def keep(self, plugins: Iterable[PluginFile]) -> None:
        """Keep copies of plugin files, so that what they made can be made again."""
        for plugin in plugins:
            path = self._copy_of(plugin.path.stem, plugin.digest)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, plugin.source)

    def _copy_of(self, stem: str, digest: str) -> Path:
        return self.directory / _PLUGINS / f"{stem}-{digest[:16]}.py"

    def require_plugins(self, needed: Mapping[str, str]) -> None:
        """Check that plugin files are loaded, given by part and digest as a record names them.

        Raises:
            InputError: one is not; the message names the store's copy.
        """
        loaded = {plugin.digest for plugin in loaded_plugins()}
        for part, digest in needed.items():
            if digest in loaded:
                continue
            copies = sorted((self.directory / _PLUGINS).glob(f"*-{str(digest)[:16]}.py"))
            cure = f"add --plugin {copies[0]}" if copies else "add --plugin FILE.py"
            raise InputError(
                f"the {part} of this run is from a plugin file that is not loaded, or is another "
                f"version of the one that is; {cure}"
            )

    def delete(self, name: str) -> None:
        """Delete a run, whole or not at all; damaged ones too.

        Raises:
            InputError: there is no such run.
            JobError: it cannot be deleted.
        """
        folder = self._runs / name
        if not _NAME.fullmatch(name) or not folder.is_dir():
            raise InputError(f"{self.directory} has no run {name}")
        with self._telling_failures():
            grave = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self._runs))
            os.rename(folder, grave)
            shutil.rmtree(grave)

    def sweep_up(self, runs: Iterable[Run]) -> None:
        """Remove what was half written of `runs` by processes that were killed."""
        partials = list(self._runs.glob(".*")) if self._runs.is_dir() else []
        if not partials:
            return
        by_name = {run.name: run for run in runs}
        for partial in partials:
            run = by_name.get(partial.name[1 : NAME_LENGTH + 1])
            if run is None:
                continue
            with self.claim(run.batch_key()) as claimed:
                if claimed:
                    shutil.rmtree(partial, ignore_errors=True)

    def _require_presence(self) -> None:
        if not self._manifest_path.exists():
            raise FileNotFoundError(errno.ENOENT, "its manifest has vanished")

    @contextlib.contextmanager
    def _telling_failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise JobError(
                f"cannot write to {self.directory}: {reason}; what was finished is kept, the same "
                "command goes on from there"
            ) from None

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the right to execute the batch `key`; gives False where another process holds it.

        The right ends with the process, however that ends: it is a lock on one byte of one file.

        Raises:
            JobError: the file cannot be locked: the directory is read-only or has vanished.
        """
        with self._telling_failures():
            self._require_presence()
            file = (self.directory / _LOCK).open("w")
        with file:
            with self._telling_failures():
                claimed = lock(file, byte_of(key))
            yield claimed

    def claims_held(self) -> frozenset[int]:
        """The batches that other processes execute now, each by `claims.byte_of` its key.

        Raises:
            JobError: the file of the claims cannot be read.
        """
        try:
            return held(self.directory / _LOCK)
        except OSError as error:
            raise JobError(
                f"cannot find out which processes work on {self.directory}: {error.strerror}"
            ) from None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _digest(fields: Mapping[str, Any], summary: Mapping[str, Scalar]) -> str:
    """What shows that a configuration or a result was edited by hand."""
    return hashlib.sha256(json.dumps([fields, summary], sort_keys=True).encode()).hexdigest()


def _write_run(folder: Path, run: Run, result: RunResult, provenance: Mapping[str, Any]) -> None:
    if result.history:
        import polars as pl

        rows = pl.DataFrame([dict(row) for row in result.history], infer_schema_length=None)
        parquet = io.BytesIO()
        rows.write_parquet(parquet)
        (folder / _HISTORY).write_bytes(parquet.getvalue())
    if result.weights:
        from keelback.models import WEIGHTS_FILE, save_weights

        save_weights(result.weights, result.model, folder / WEIGHTS_FILE)
    record = {
        "run": run.fields(),
        "summary": result.summary,
        "digest": _digest(run.fields(), result.summary),
        "provenance": dict(provenance),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    if circumstances := run.circumstances():
        record["circumstances"] = circumstances
    (folder / _RUN).write_text(json.dumps(record, indent=1, allow_nan=False))


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
