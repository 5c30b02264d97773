"""Which commit the code is: git says where the code is a checkout, else the built package does.

A wheel and an sdist hold the commit that they were built from, in `commit.txt` beside this file;
`hatch_build.py` puts it there. It loads this file alone, where keelback is not installed.
"""

import functools
import subprocess
from pathlib import Path

BUILT = "commit.txt"
"""The file of a built package that names its commit."""

DIRTY = "-dirty"
"""What a commit ends in where the code was not as that commit has it."""

CODE = ("src", "tools", "tests", "proofs", "pyproject.toml", "hatch_build.py")
"""What makes a number. Results and docs may differ from the commit: they are what it makes."""


@functools.cache
def commit() -> str | None:
    """The commit of the running code, ending in `-dirty` where files differ from it.

    None where nothing knows it: code that was copied without git and without being built.
    """
    here = Path(__file__).resolve()
    root = here.parents[2]
    if (root / ".git").exists():
        return commit_of(root)
    built = here.with_name(BUILT)
    return built.read_text().strip() if built.is_file() else None


def commit_of(root: Path) -> str | None:
    """The commit of a checkout, ending in `-dirty` where its code differs from it.

    Changed, added and deleted files count, those that git does not know included, those that it
    ignores left out; of the folders and files that `CODE` names alone.
    """
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    changed = _git(root, "status", "--porcelain", "--", *CODE)
    return head if changed == "" else head + DIRTY


def is_clean(found: str | None) -> bool:
    """Whether a commit says exactly which code it was."""
    return found is not None and not found.endswith(DIRTY)


def require_clean(path: Path, *, allow_dirty: bool = False) -> None:
    """Refuse to write a committed result that no commit could make again.

    A committed result is whatever lies below a folder `results` with an `index.json` in it.

    Args:
        path: where to write; nothing need be there yet.
        allow_dirty: write nevertheless; the provenance says so, and no table of the docs may show
            the file.

    Raises:
        InputError: the code differs from its commit, or nothing says which commit it is.
    """
    from keelback.errors import InputError

    folders = path.absolute().resolve().parents
    committed = any(f.name == "results" and (f / "index.json").is_file() for f in folders)
    if committed and not allow_dirty and not is_clean(commit()):
        state = f"differs from its commit ({commit()})" if commit() else "is of no known commit"
        raise InputError(
            f"{path} is a committed result, and this code {state}; commit the code first, or "
            "give --allow-dirty, and no table of the docs will show the file"
        )


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
