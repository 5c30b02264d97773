"""Compiled kernels on disk: what is not whole, or made from other sources, is compiled again.

Numba's own cache notices a change in the file of the function that Python calls, but not in the
files of the functions that this one calls; a file of it that was cut short fails every later call;
and two processes that compile at once may exchange their files. Here a file's name is a hash of
everything that the machine code depends on, and its content begins with its own hash.
"""

# mypy: allow-untyped-calls

import hashlib
import inspect
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

from keelback.compiled.kept_files import keep_whole, read_whole, remove

#: Published without type information.
_numba: Any = caching
_HASH = hashlib.sha256


@cache
def _sources_of(folder: Path) -> str:
    """A hash of the Python sources of a folder."""
    digest = _HASH()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class _Files:
    """The files of one function: each holds the machine code for one signature and processor."""

    def __init__(self, folder: Path, function: str, sources: str) -> None:
        self._folder = folder
        self._function, self._sources = function, sources[:16]

    def path(self, key: tuple[Any, ...]) -> Path:
        """Where the machine code for a signature and a processor is, if it is there."""
        signature, processor, code = key
        parts = repr((str(signature), processor, code, numba.__version__))
        name = _HASH(parts.encode()).hexdigest()[:16]
        return self._folder / f"{self._function}.{self._sources}.{name}.nbc"

    def load(self, key: tuple[Any, ...]) -> Any:
        """What was saved, or None where there is nothing, or nothing whole."""
        data = read_whole(self.path(key))
        return None if data is None else pickle.loads(data)  # Numba's format, in a user's folder.

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Keep machine code, and remove what was compiled from other sources."""
        keep_whole(self.path(key), _numba.dumps(data))
        for path in self._all():
            if not path.name.startswith(f"{self._function}.{self._sources}."):
                remove(path)

    def drop(self, key: tuple[Any, ...]) -> None:
        """Remove what is of no use."""
        remove(self.path(key))

    def flush(self) -> None:
        """Remove everything."""
        for path in self._all():
            remove(path)

    def _all(self) -> list[Path]:
        return list(self._folder.glob(f"{self._function}.*.nbc"))


class KernelCache(caching.FunctionCache):
    """The cache of a function that Python calls.

    Its machine code is compiled again when a Python source changes in the function's own folder, or
    in `keelback/compiled`, whose functions all kernels are made of.
    """

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        source = Path(inspect.getfile(function))
        stamp = _sources_of(source.parent) + _sources_of(Path(__file__).parent)
        sources = _HASH(stamp.encode()).hexdigest()
        name = f"{source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._cache_file: Any = _Files(Path(self.cache_path), name, sources)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None where it is to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # Whatever is wrong with what was kept, compiling it again mends.
            target_context.refresh()
            self._cache_file.drop(self._index_key(sig, target_context.codegen()))
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function, where there is room."""
        try:
            super().save_overload(sig, data)
        except OSError:
            return
