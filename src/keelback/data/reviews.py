"""Labelled texts: from the Hub, a folder of Parquet files, an `aclImdb` tree, or CSV files."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keelback.data.hub import hub_errors
from keelback.data.split import SplitName
from keelback.errors import InputError

if TYPE_CHECKING:
    import polars as pl

HUB_DATASET = "stanfordnlp/imdb"
HUB_DATASET_REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"

_LABELS = {"0": 0, "1": 1, "neg": 0, "pos": 1, "negative": 0, "positive": 1}


@dataclass(frozen=True)
class Reviews:
    """Texts with label 1 where positive, 0 where negative."""

    texts: Sequence[str]
    labels: npt.NDArray[np.int64]


class ReviewSource(ABC):
    """Where the reviews of one split are."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the reviews do, and is found without tokenising them."""

    @abstractmethod
    def read(self) -> Reviews:
        """Read and check the reviews.

        Raises:
            InputError: they cannot be read, or a text is empty, or a label is not 0 or 1.
        """


def find_reviews(data: Path | None, split: SplitName) -> ReviewSource:
    """The source that `data` is: the Hub for None, a CSV file, or a folder of one of the layouts.

    Raises:
        InputError: there is nothing at `data` that holds the split.
    """
    if data is None:
        return HubReviews(split)
    if data.is_file():
        if data.suffix == ".parquet":
            return ParquetReviews([data])
        return CsvReviews(data)
    if not data.is_dir():
        raise InputError(f"there is no file or folder {data}")
    parquet = sorted(data.glob(f"**/{split}-*.parquet")) or sorted(data.glob(f"{split}.parquet"))
    if parquet:
        return ParquetReviews(parquet)
    if (data / f"{split}.csv").is_file():
        return CsvReviews(data / f"{split}.csv")
    for root in (data, data / "aclImdb"):
        if (root / split).is_dir():
            return AclImdbReviews(root / split)
    raise InputError(
        f"{data} holds no {split} split: expected {split}-*.parquet (text, label), "
        f"{split}.csv (text, label), or {split}/pos and {split}/neg as in aclImdb"
    )


class HubReviews(ReviewSource):
    """The IMDb reviews on the Hugging Face Hub, at a fixed revision."""

    def __init__(self, split: SplitName) -> None:
        self.split = split

    @property
    def fingerprint(self) -> str:
        """The name and revision of the data set."""
        return f"{HUB_DATASET}@{HUB_DATASET_REVISION}"

    def read(self) -> Reviews:
        """Download, or find in the cache of the datasets library."""
        with hub_errors(f"the data set {HUB_DATASET}", "--data PATH"):
            from datasets import load_dataset

            rows = load_dataset(HUB_DATASET, revision=HUB_DATASET_REVISION, split=self.split)
        return _checked(rows["text"], rows["label"], HUB_DATASET)


class ParquetReviews(ReviewSource):
    """Parquet files with the columns `text` and `label`, as on the Hub."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    @property
    def fingerprint(self) -> str:
        """A digest of the files' contents."""
        return _digest(self.files)

    def read(self) -> Reviews:
        """Read the files in the order of their names."""
        import polars as pl

        frames = []
        for file in self.files:
            try:
                frame = pl.read_parquet(file)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise InputError(f"{file} is not a whole Parquet file ({_line(error)})") from None
            frames.append(_text_and_label(frame, file))
        rows = pl.concat(frames)
        return _checked(rows["text"].to_list(), rows["label"].to_list(), self._name())

    def _name(self) -> str:
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


class CsvReviews(ReviewSource):
    """A CSV file with the columns `text` and `label` (0, 1, neg or pos)."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def fingerprint(self) -> str:
        """A digest of the file's contents."""
        return _digest([self.file])

    def read(self) -> Reviews:
        """Read the file; texts may be quoted and run over several lines."""
        import polars as pl

        try:
            frame = pl.read_csv(self.file, infer_schema=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{self.file} is not a CSV file ({_line(error)})") from None
        rows = _text_and_label(frame, self.file)
        return _checked(rows["text"].to_list(), rows["label"].to_list(), str(self.file))


class AclImdbReviews(ReviewSource):
    """A split of the original archive: one text file a review, in `neg` and `pos`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        for sentiment in ("neg", "pos"):
            files = sorted((folder / sentiment).glob("*.txt"))
            if not files:
                raise InputError(f"{folder / sentiment} holds no reviews (*.txt)")
            self.files += files

    @property
    def fingerprint(self) -> str:
        """A digest of the files' contents, which decide the order too."""
        return _digest(self.files)

    def read(self) -> Reviews:
        """Read negative reviews, then positive ones, each in the order of their file names."""
        texts = []
        for file in self.files:
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{file} is not UTF-8 text ({error})") from None
            if not texts[-1].strip():
                raise InputError(f"{file}: the text is empty")
        return _checked(texts, [file.parent.name for file in self.files], str(self.folder))


def _text_and_label(frame: "pl.DataFrame", file: Path) -> "pl.DataFrame":
    import polars as pl

    missing = [name for name in ("text", "label") if name not in frame.columns]
    if missing:
        raise InputError(
            f"{file} has no column {' and no column '.join(missing)}; "
            f"its columns are {', '.join(frame.columns[:8])}"
        )
    return frame.select(pl.col("text").cast(pl.String), pl.col("label").cast(pl.String))


def _checked(texts: Sequence[str | None], labels: Sequence[object], where: str) -> Reviews:
    """The reviews, once every text has a character and every label is one of the two classes."""
    if not texts:
        raise InputError(f"{where} holds no reviews")
    for row, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        if text is None or not text.strip():
            raise InputError(f"{where}, row {row}: the text is empty")
        if str(label).strip().lower() not in _LABELS:
            raise InputError(
                f"{where}, row {row}: label {label!r} is neither 0 (negative) nor 1 (positive)"
            )
    numbers = [_LABELS[str(label).strip().lower()] for label in labels]
    return Reviews([text for text in texts if text], np.array(numbers, dtype=np.int64))


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from None
        digest.update(f"{file.parent.name}/{file.name}:{len(content)}:".encode())
        digest.update(content)
    return f"files:{digest.hexdigest()}"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
