"""Files that are either whole or absent, in directories that may be written to."""

import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keelback.errors import InputError, JobError
from keelback.files import write_atomically


def require_report_extra() -> None:
    """Raise `InputError` with the command that helps unless the `report` extra is installed."""
    missing = [
        name
        for name in ("matplotlib", "plotly", "jinja2")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(
            f"reports are drawn with {', '.join(missing)}, not installed here: "
            'pip install "keelback[report]"'
        )


def writable_directory(directory: str | os.PathLike[str]) -> Path:
    """Create `directory` if it is not there; `InputError` unless files can be written in it."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to the directory {str(path)!r} ({error.strerror}): "
            "give one that you may write to"
        ) from None
    return path


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
