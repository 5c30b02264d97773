"""Which code this is, for what others keep of a call on disk and would use with newer code."""

import os
from hashlib import sha256
from pathlib import Path

from keelback import __version__


def state_of(folder: Path) -> str:
    """A hash of the names, sizes and times of change of all Python files below a folder."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                file = os.path.join(place, name)
                told = os.stat(file)
                found.append((os.path.relpath(file, folder), told.st_size, told.st_mtime_ns))
    return sha256(repr(sorted(found)).encode()).hexdigest()[:16]


#: The version of the package and the state of its files, as they are when it is imported.
SOURCES = f"{__version__} {state_of(Path(__file__).parents[1])}"
