"""Files of a cache that are whole or of no use: each begins with the hash of the rest."""

import hashlib
import os
from pathlib import Path

_HASH = hashlib.sha256
_BYTES = _HASH().digest_size


def read_whole(path: Path) -> bytes | None:
    """What was kept, or None where there is nothing, or nothing whole, which is then removed."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = content[_BYTES:]
    if content[:_BYTES] == _HASH(data).digest():
        return data
    remove(path)
    return None


def keep_whole(path: Path, data: bytes) -> None:
    """Write by renaming; where that is impossible (read-only, full), do without."""
    written = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written.write_bytes(_HASH(data).digest() + data)
        written.replace(path)
    except OSError:
        remove(written)


def remove(path: Path) -> None:
    """Remove a file, if it is there and ours to remove."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
