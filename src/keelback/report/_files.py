"""Files that are either whole or absent, in directories that may be written to."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keelback.errors import InputError, JobError
from keelback.extras import require_extra
from keelback.files import made, write_atomically

PAGE = "report.html"
_MARK = b'<meta name="generator" content="keelback">'
_HEAD = 100_000
"""Bytes of a page in which its mark stands."""


def require_report_extra() -> None:
    """Raise `InputError` with the command that helps unless the `report` extra is installed."""
    require_extra("report", "a report")


@contextmanager
def made_writable(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Create `directory` for the block if it is not there, and take it back if the block fails.

    Raises:
        InputError: no files can be written in it.
    """
    path = Path(directory)
    with ExitStack() as stack:
        try:
            stack.enter_context(made(path))
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise InputError(
                f"cannot write to the directory {str(path)!r} ({error.strerror}): "
                "give one that you may write to"
            ) from None
        yield path


def writable_directory(directory: str | os.PathLike[str]) -> Path:
    """Create `directory` if it is not there; `InputError` unless files can be written in it."""
    with made_writable(directory) as path:
        return path


def require_own_page(directory: str | os.PathLike[str]) -> None:
    """`InputError` where the folder holds a `report.html` that keelback did not write."""
    path = Path(directory) / PAGE
    if path.exists() and _MARK not in path.read_bytes()[:_HEAD]:
        raise InputError(f"{str(path)!r} is not a page of keelback; name another folder")


def write_file(path: Path, content: bytes) -> Path:
    """Write `path` in one step; `JobError` if that cannot be done."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise JobError(f"could not write {str(path)!r}: {error.strerror}") from None
    return path


def file_stem(name: str) -> str:
    """`name` as a file name without suffix: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:100] or "unnamed"


def distinct_stems(names: Sequence[str]) -> list[str]:
    """One file stem a name; a stem seen before (in any case) gets a number."""
    stems: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = candidate = file_stem(name)
        number = 2
        while candidate.lower() in taken:
            candidate = f"{stem}-{number}"
            number += 1
        taken.add(candidate.lower())
        stems.append(candidate)
    return stems
