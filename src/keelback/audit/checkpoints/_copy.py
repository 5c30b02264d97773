"""A copy of a model's folder: the same files and folders, with the hash of each file."""

import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from keelback.audit.checkpoints._rewrite import copy_with_hash
from keelback.errors import InputError


def copy_folder(source: Path, target: Path, leave: Collection[str] = ()) -> dict[str, str]:
    """Copy everything in `source` to the folder `target`, which is there; gives SHA-256 by path.

    Links are followed, as in the cache of the Hub, where a snapshot is made of links. A link that
    leads nowhere, or to a folder that it lies in, stays a link. Permissions are kept, but that the
    owner can write to all folders, without which the copy could not be made.

    Args:
        leave: names in `source` itself that are not copied.

    Raises:
        InputError: something in it is neither a file nor a folder.
    """
    hashes: dict[str, str] = {}
    _copy(source, target, source, hashes, frozenset(leave), (source.resolve(),))
    return hashes


def _copy(
    folder: Path,
    target: Path,
    top: Path,
    hashes: dict[str, str],
    leave: frozenset[str],
    within: tuple[Path, ...],
) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.name in leave:
            continue
        copy, real = target / entry.name, entry.resolve()
        in_circles = real in within or within[-1].is_relative_to(real)
        if entry.is_symlink() and (in_circles or not entry.exists()):
            copy.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            copy.mkdir()
            _copy(entry, copy, top, hashes, frozenset(), (*within, real))
            shutil.copystat(entry, copy)
            copy.chmod(stat.S_IMODE(copy.stat().st_mode) | stat.S_IRWXU)
        elif entry.is_file():
            hashes[entry.relative_to(top).as_posix()] = copy_with_hash(entry, copy)
            shutil.copystat(entry, copy)
        else:
            raise InputError(
                f"{entry} is neither a file nor a folder, so {top} cannot be copied; remove it"
            )
