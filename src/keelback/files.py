"""Files and folders that are whole or absent: written under another name, then renamed."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON in one step.

    Raises:
        ValueError: a number of it is infinite or not a number, which JSON does not have.
    """
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _beside(path: Path) -> Path:
    """A name that nobody else writes to, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
