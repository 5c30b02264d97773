"""Reader of ListOps files as Long Range Arena writes them: `Source` and `Target`, tab-separated."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from keelback.data.listops_grammar import TOKENS
from keelback.data.ragged import Ragged
from keelback.errors import InputError

HEADER = ("Source", "Target")

_FIRST_CODE = ord("0")
_CODES = tuple(
    (token.encode(), bytes([_FIRST_CODE + i])) for i, token in enumerate(TOKENS) if i >= 10
)
_CODE_BYTES = b"".join(code for _, code in _CODES)


def read_listops_tsv(
    path: Path, longest: int | None = None
) -> tuple[Ragged, npt.NDArray[np.int64]]:
    """Read token ids and labels; the parentheses of the binary tree are dropped.

    Args:
        path: the file.
        longest: the most tokens a sequence may have.

    Raises:
        InputError: the file is missing, empty or not text, has other columns, a token outside the
            vocabulary, a label that is not a digit, an empty or a too long sequence. The message
            gives the line.
    """
    try:
        with path.open("rb") as file:
            _check_header(path, file.readline())
            rows, labels = [], []
            for number, line in enumerate(file, start=2):
                if line.strip():
                    source, label = _fields(path, number, line)
                    rows.append(_token_ids(path, number, source, longest))
                    labels.append(label)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not rows:
        raise InputError(f"{path} has a header and no sequences")
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Ragged(np.concatenate(rows), offsets), np.array(labels, dtype=np.int64)


def _check_header(path: Path, line: bytes) -> None:
    found = line.decode("utf-8", errors="replace").strip("\r\n").split("\t")
    if tuple(found) != HEADER:
        shown = ", ".join(repr(name[:40]) for name in found[:4])
        raise InputError(
            f"{path} is not a ListOps file: its first line should name the columns "
            f"Source and Target, separated by a tab, not {shown}"
        )


def _fields(path: Path, number: int, line: bytes) -> tuple[bytes, int]:
    fields = line.strip(b"\r\n").split(b"\t")
    if len(fields) != 2:
        raise InputError(
            f"{path}, line {number}: {len(fields)} columns instead of 2; is the file cut off?"
        )
    source, target = fields
    if len(target) != 1 or not target.isdigit():
        label = target.decode("utf-8", errors="replace")[:40]
        raise InputError(f"{path}, line {number}: label {label!r} is not one of the classes 0 to 9")
    return source.strip(), int(target)


def _token_ids(
    path: Path, number: int, source: bytes, longest: int | None
) -> npt.NDArray[np.uint8]:
    """Ids by byte replacement: the operators become the characters that follow "9" in ASCII.

    A gigabyte of text goes through in seconds, which splitting into words would take minutes for.
    """
    text = source
    for token, code in _CODES:
        text = text.replace(token, code)
    ids = np.frombuffer(text.translate(None, b"() "), dtype=np.uint8) - np.uint8(_FIRST_CODE)
    words = source.count(b" ") + 1
    parentheses = source.count(b"(") + source.count(b")")
    whole = words == parentheses + len(ids) and b"  " not in source
    if (
        not whole
        or bool((ids >= len(TOKENS)).any())
        or source.translate(None, _CODE_BYTES) != source
    ):
        ids = _token_ids_word_by_word(path, number, source)
    if len(ids) == 0:
        raise InputError(f"{path}, line {number}: the sequence is empty")
    if longest is not None and len(ids) > longest:
        raise InputError(
            f"{path}, line {number}: the sequence has {len(ids)} tokens, more than the {longest} "
            "that the length asked for allows"
        )
    return ids


def _token_ids_word_by_word(path: Path, number: int, source: bytes) -> npt.NDArray[np.uint8]:
    ids = []
    for word in source.decode("utf-8", errors="replace").split():
        if word in ("(", ")"):
            continue
        if word not in TOKENS:
            raise InputError(
                f"{path}, line {number}: token {word[:40]!r} is not in the vocabulary "
                f"({' '.join(TOKENS)})"
            )
        ids.append(TOKENS.index(word))
    return np.array(ids, dtype=np.uint8)
