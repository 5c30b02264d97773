"""Texts of whole documents: reviews, a folder of text files, or one text file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.data.reviews import find_reviews
from keelback.errors import InputError


@dataclass(frozen=True)
class Documents:
    """Documents in the order of their source.

    Attributes:
        texts: one per document.
        sha256: digest of the texts in their order, each with its length before it.
    """

    texts: Sequence[str]
    sha256: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Documents":
        """Documents with their digest."""
        digest = hashlib.sha256()
        for text in texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        return cls(texts, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def size(self) -> int:
        """How many bytes the texts have together, as UTF-8."""
        return sum(len(text.encode()) for text in self.texts)

    def joined(self) -> bytes:
        """All texts as bytes, a blank line between them."""
        return b"\n\n".join(text.encode() for text in self.texts)

    def as_dict(self) -> dict[str, Any]:
        """Number of documents and bytes, and the digest, for JSON."""
        return {"documents": len(self), "bytes": self.size, "sha256": self.sha256}

    def take(self, rows: Sequence[int]) -> "Documents":
        """Some of the documents, in the order of `rows`."""
        return Documents.of([self.texts[row] for row in rows])


def read_documents(sources: Sequence[Path]) -> Documents:
    """The documents of files and folders, in their order.

    A text file (`.txt`) is one document; a folder holds one document per text file at its top, in
    the order of their names; a Parquet or CSV file is read as reviews, with `<br />` as a line
    break.

    Raises:
        InputError: nothing there, a file that is not UTF-8 text, or an empty document.
    """
    texts: list[str] = []
    for source in sources:
        if source.is_dir():
            files = sorted(source.glob("*.txt"))
            if not files:
                raise InputError(
                    f"{source} holds no text files (*.txt): name a file of reviews, .parquet or "
                    ".csv, or a folder of text files"
                )
            texts += [_text(file) for file in files]
        elif source.suffix == ".txt" and source.is_file():
            texts.append(_text(source))
        else:
            reviews = find_reviews(source, "train").read().texts
            texts += [text.replace("<br />", "\n") for text in reviews]
    return Documents.of(texts)


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not UTF-8 text ({error})") from None
    if not text.strip():
        raise InputError(f"{file}: the text is empty")
    return text
