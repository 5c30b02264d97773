"""Files and folders that are whole or absent: written under another name, then renamed."""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelback.errors import InputError

if TYPE_CHECKING:
    import polars as pl


def require_new_file(path: Path, option: str, what: str) -> None:
    """Raise an InputError unless a new file can be made there: `what`, as `option` asks."""
    if path.exists():
        raise InputError(f"{path} exists already; {what} is written to a new file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} is {path}; its folder does not exist")
    require_writable(path.absolute().parent)


def require_writable(folder: Path) -> None:
    """Raise an InputError unless files can be made in a folder, or it where it is not there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file, in which {folder} cannot be made")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {there}; give a folder that you may write to")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, and rename it to `path` once the block ends well.

    A reader sees the old file or the new one, never a part. The file's permissions are those that
    any new file gets, whatever wrote it; nothing is left behind if the block fails.
    """
    partial = _beside(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_with_parts(path: Path) -> None:
    """Remove a file that has one writer, and the parts of it that a killed writer left.

    Raises:
        OSError: one of them cannot be removed.
    """
    for part in path.parent.glob(f".{escape(path.name)}.*-*"):
        part.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make `folder`, and take back what of it and its parents is still empty if the block fails."""
    fresh = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in fresh:
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def adding_to(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and move what is in it into `folder` once the block ends well.

    Files of the same names are replaced, others stay. Nothing is left behind if the block fails,
    and no space is needed once it has ended. `folder` is there already; the empty one is inside it,
    and so on the same disk.
    """
    partial = folder / f".{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir()
        yield partial
        for path in sorted(partial.rglob("*")):
            target = folder / path.relative_to(partial)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and rename it to `folder` once the block ends well.

    A reader sees the whole folder or none; nothing is left behind if the block fails. Until then
    its name begins with a dot, the folder's own name and another dot.

    Raises:
        OSError: it cannot be written, or a folder of that name is there and holds something.
    """
    partial = _beside(folder)
    try:
        partial.mkdir()
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, in one step."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_table(path: Path, table: "pl.DataFrame") -> None:
    """Write a data frame in one step, as CSV, JSON or, whatever else the name says, Parquet.

    Polars writes into memory, since it hides some of a full disk's errors.
    """
    content = io.BytesIO()
    if path.suffix == ".csv":
        table.write_csv(content)
    elif path.suffix == ".json":
        table.write_json(content)
    else:
        table.write_parquet(content)
    write_atomically(path, content.getvalue())


def digest_of(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def parsed_json(text: str | bytes, *, once: bool = False) -> Any:
    """What a JSON text says; with `once`, no object of it may have two values of one name.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands in it twice")
        found[name] = value
    return found


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON in one step.

    Raises:
        ValueError: a number of it is infinite or not a number, which JSON does not have.
    """
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _beside(path: Path) -> Path:
    """A name that nobody else writes to, in the same folder."""
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
