"""Claims of batches: locks on single bytes of a store's file, which end with their process."""

import errno
import fcntl
import hashlib
import struct
from pathlib import Path
from typing import TextIO

_BYTES_OF_KEY = 7
_FLOCK = "hhqqi"
"""`struct flock` of Linux: the kind of the lock, from where, the first byte, how many, process."""


def byte_of(key: str) -> int:
    """The byte that stands for the batch `key`.

    Examples:
        >>> 0 <= byte_of("a batch") < 2**56
        True
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:_BYTES_OF_KEY], "big")


def lock(file: TextIO, byte: int) -> bool:
    """Lock one byte of an open file for this process; False where another one has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def held(path: Path) -> frozenset[int]:
    """The bytes of a file that other processes have locked; the file is only read.

    A process that holds locks itself must not call it: closing the file would end them.
    """
    if not path.is_file():
        return frozenset()
    with path.open() as file:
        return frozenset(_held(file, 0, 2 ** (8 * _BYTES_OF_KEY) - 1))


def _held(file: TextIO, first: int, last: int) -> list[int]:
    """The system tells of one lock in a range, whichever; the others lie to both sides of it."""
    if first > last:
        return []
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, first, last - first + 1, 0)
    answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    kind, _, start, length, _ = struct.unpack(_FLOCK, answer[: struct.calcsize(_FLOCK)])
    if kind == fcntl.F_UNLCK:
        return []
    end = last if length == 0 else start + length - 1
    return [start, *_held(file, first, start - 1), *_held(file, end + 1, last)]
