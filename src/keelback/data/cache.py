"""Tokenised text on disk: written once, checked, and read through memory maps."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keelback.data.ragged import Ragged
from keelback.errors import InputError
from keelback.files import filling, parsed_json

FORMAT = 1

_VALUES, _OFFSETS, _LABELS, _META = "values.npy", "offsets.npy", "labels.npy", "meta.json"


@dataclass(frozen=True)
class CacheKey:
    """What decides the tokens: fingerprints of the texts and of the tokenizer."""

    task: str
    split: str
    data: str
    tokenizer: str
    format: int = FORMAT

    @property
    def folder_name(self) -> str:
        """A name that another key does not have."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return f"{self.task}-{self.split}-{digest}"


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids, untruncated, with one label each."""

    sequences: Ragged
    labels: npt.NDArray[np.int64]


def cache_folder() -> Path:
    """`$KEELBACK_CACHE`, else `keelback` in `$XDG_CACHE_HOME`, else `~/.cache/keelback`."""
    own = os.environ.get("KEELBACK_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keelback"


def cached_tokens(key: CacheKey, make: Callable[[], TokenisedTexts]) -> TokenisedTexts:
    """The tokens under `key`, memory-mapped; made and kept on the first call.

    Raises:
        InputError: the entry is damaged or belongs to another key, or the folder cannot be written.
    """
    folder = cache_folder() / key.folder_name
    if not folder.exists():
        _write(folder, key, make())
    return _read(folder, key)


def _write(folder: Path, key: CacheKey, texts: TokenisedTexts) -> None:
    """Write to a temporary folder and rename it, so that an entry is whole or absent."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filling(folder) as partial:
            np.save(partial / _VALUES, texts.sequences.values)
            np.save(partial / _OFFSETS, texts.sequences.offsets)
            np.save(partial / _LABELS, texts.labels)
            (partial / _META).write_text(json.dumps(asdict(key), indent=2))
    except OSError as error:
        if not folder.exists():  # Where it does, another process was faster.
            raise InputError(
                f"cannot write the token cache in {folder.parent} ({error.strerror}); "
                "set KEELBACK_CACHE to a folder that can be written"
            ) from None


def _read(folder: Path, key: CacheKey) -> TokenisedTexts:
    remedy = f"delete {folder} and it will be made again"
    try:
        found = parsed_json((folder / _META).read_text())
        values, offsets, labels = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in (_VALUES, _OFFSETS, _LABELS)
        )
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the token cache is damaged ({error}); {remedy}") from None
    expected = asdict(key)
    if found != expected:
        other = [name for name in expected if not isinstance(found, dict) or name not in found]
        other += [name for name in expected if name not in other and found[name] != expected[name]]
        raise InputError(
            f"the token cache was made with other settings ({', '.join(other)}); {remedy}"
        )
    if len(offsets) != len(labels) + 1 or offsets[0] != 0 or offsets[-1] != len(values):
        raise InputError(f"the token cache is damaged (its arrays do not fit together); {remedy}")
    return TokenisedTexts(Ragged(values, offsets), labels)
