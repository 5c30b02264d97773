"""A hash of keelback's own sources, which tells what others keep of a call from newer code."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from torch.compiler import assume_constant_result


@assume_constant_result
def sources() -> str:
    """The hash of this package; for `torch.compile` a constant."""
    return hash_of(Path(__file__).parents[1])


@cache
def hash_of(folder: Path) -> str:
    """The hash of all Python files below a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
