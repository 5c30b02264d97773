"""ListOps: the value of a nested expression over single digits."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from keelback.data.listops_grammar import TOKENS, generate_trees
from keelback.data.listops_tsv import read_listops_tsv
from keelback.data.ragged import PaddingSide, Ragged
from keelback.data.split import SPLIT_NAMES, Split, SplitName
from keelback.data.task import Task, TaskSettings, register_task
from keelback.errors import InputError
from keelback.memory import require_memory

MARGIN = 5
"""Trees asked for with length T have more than T - 5 and fewer than T + 5 tokens."""

DEFAULT_SIZE = 1000


class ListOpsSettings(TaskSettings):
    """Which trees: generated between two lengths, or read from `data`.

    `seq_len` T stands for the bounds T - 5 and T + 5; `min_length` and `max_length` (exclusive)
    replace them. `data` is a TSV file, or a folder with one for each split; then `seq_len` may be
    left out, all rows are taken unless `n_train` or `n_test` says how many, and `data_seed` has no
    effect.

    Examples:
        >>> ListOpsSettings(seq_len=50, n_test=3).n_test
        3
    """

    seq_len: int | None = Field(default=None, ge=1)
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=2)
    n_train: int | None = Field(default=None, ge=1)
    n_test: int | None = Field(default=None, ge=1)
    padding_side: PaddingSide = "right"
    data: Path | None = None

    @model_validator(mode="after")
    def _some_length(self) -> "ListOpsSettings":
        if self.data is None and self.max_length is None and self.seq_len is None:
            raise ValueError("seq_len is missing (or max_length, or a file to read with data)")
        return self

    @property
    def bounds(self) -> tuple[int, int | None]:
        """The exclusive bounds on a tree's tokens."""
        T = self.seq_len
        low = self.min_length if self.min_length is not None else (T - MARGIN if T else 0)
        high = self.max_length if self.max_length is not None else (T + MARGIN if T else None)
        return low, high


@register_task
class ListOps(Task):
    """Ten classes: the value of a tree of MIN, MAX, MED (floored) and SM (sum modulo 10).

    Long Range Arena's grammar (Tay et al. 2021, arXiv 2011.04006) without the parentheses of its
    binary trees. Padded to the longest sequence of the split. No tree occurs twice in the two
    splits together, and the test split of a seed does not depend on `n_train`.

    Examples:
        >>> test = ListOps(ListOpsSettings(seq_len=50, n_test=3)).split("test")
        >>> bool((test.lengths > 45).all())
        True
    """

    name: ClassVar[str] = "listops"
    settings_type = ListOpsSettings
    vocab_size = len(TOKENS) + 1
    n_classes: ClassVar[int] = 10
    pad_id: ClassVar[int | None] = len(TOKENS)
    settings: ListOpsSettings

    def fingerprint(self) -> str | None:
        """A digest of the files, or None where the trees are generated."""
        data, length = self.settings.data, self.settings.seq_len
        if data is None:
            return None
        files = [_file_of_split(data, name, length) for name in SPLIT_NAMES]
        digest = hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16)
        return f"files:{digest.hexdigest()}"

    @property
    def held_out(self) -> bool:
        """False where `data` is one file."""
        return self.settings.data is None or not self.settings.data.is_file()

    def require_room(self) -> None:
        """Check that the trees of both splits fit, where they are generated."""
        _, high = self.settings.bounds
        if self.settings.data is None and high is not None:
            sizes = (self.settings.n_train, self.settings.n_test)
            count = sum(size or DEFAULT_SIZE for size in sizes)
            require_memory(12.0 * count * high, "the trees of both splits")

    def split(self, name: SplitName) -> Split:
        """Generate or read the split; one file of `data` serves for either name."""
        sequences, labels = self._generate(name) if self.settings.data is None else self._read(name)
        side = self.settings.padding_side
        return Split(
            tokens=torch.from_numpy(sequences.padded(len(TOKENS), side=side)),
            labels=torch.from_numpy(labels),
            lengths=torch.from_numpy(sequences.lengths),
        )

    def _generate(self, name: SplitName) -> tuple[Ragged, npt.NDArray[np.int64]]:
        low, high = self.settings.bounds
        assert high is not None, "the settings require a length where there is no data"
        n_test = self.settings.n_test or DEFAULT_SIZE
        n_train = self.settings.n_train or DEFAULT_SIZE
        self.require_room()
        count = n_test if name == "test" else n_test + n_train
        trees, values = generate_trees(count, low, high, self.settings.data_seed)
        if name == "test":
            return trees, values
        return Ragged(trees.values, trees.offsets[n_test:]), values[n_test:]

    def _read(self, name: SplitName) -> tuple[Ragged, npt.NDArray[np.int64]]:
        assert self.settings.data is not None
        path = _file_of_split(self.settings.data, name, self.settings.seq_len)
        _, high = self.settings.bounds
        sequences, labels = read_listops_tsv(path, None if high is None else high - 1)
        wanted = self.settings.n_train if name == "train" else self.settings.n_test
        if wanted is not None and wanted > len(labels):
            raise InputError(f"{path} has {len(labels)} sequences, n_{name} asks for {wanted}")
        count = len(labels) if wanted is None else wanted
        return sequences.first(count), labels[:count]


def _file_of_split(data: Path, name: SplitName, seq_len: int | None) -> Path:
    """The file itself, or the folder's one for this split: by length, else the only one."""
    if data.is_file():
        return data
    if not data.is_dir():
        raise InputError(f"there is no file or folder {data}")
    if seq_len is not None:
        exact = data / f"T{seq_len - MARGIN}-{seq_len + MARGIN}_{name}.tsv"
        if exact.is_file():
            return exact
    found = sorted(data.glob(f"*{name}.tsv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{data} should hold one file whose name ends in {name}.tsv; found {names}"
        )
    return found[0]
