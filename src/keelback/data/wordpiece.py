"""WordPiece tokenisation as in BERT uncased, from a vocabulary file or the Hub's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keelback.data.hub import hub_errors
from keelback.data.ragged import Ragged
from keelback.errors import InputError

HUB_TOKENIZER = "google-bert/bert-base-uncased"
HUB_TOKENIZER_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"
HUB_VOCAB_SIZE = 30522
PAD, SPECIAL_TOKENS = "[PAD]", ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

_TEXTS_AT_ONCE = 1000


class WordPiece:
    """A WordPiece tokenizer: lower case, accents stripped, `[CLS] ... [SEP]` around each text.

    Args:
        path: a vocabulary file with one token per line, [PAD] first, or a folder with a
            `vocab.txt`; None for the 30,522 tokens of BERT uncased on the Hub, which are fetched
            when they are needed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._vocabulary = None if path is None else read_vocabulary(path)

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return HUB_VOCAB_SIZE if self._vocabulary is None else len(self._vocabulary)

    @property
    def fingerprint(self) -> str:
        """What this tokenizer is, for the key of a cache."""
        if self._vocabulary is None:
            return f"{HUB_TOKENIZER}@{HUB_TOKENIZER_REVISION}"
        digest = hashlib.blake2b("\n".join(self._vocabulary).encode(), digest_size=16)
        return f"vocabulary:{digest.hexdigest()}"

    def encode(self, texts: Sequence[str]) -> Ragged:
        """The token ids of each text, not truncated.

        Raises:
            InputError: the tokenizers library is not installed, or the Hub cannot be reached.
        """
        try:
            from tokenizers import BertWordPieceTokenizer
        except ModuleNotFoundError:
            raise InputError(
                "tokenising text needs the tokenizers library: pip install 'keelback[hf]'"
            ) from None
        vocabulary = _hub_vocabulary() if self._vocabulary is None else self._vocabulary
        tokenizer = BertWordPieceTokenizer(dict(vocabulary), lowercase=True)
        batches = (texts[i : i + _TEXTS_AT_ONCE] for i in range(0, len(texts), _TEXTS_AT_ONCE))
        return Ragged.from_sequences(
            np.array(encoding.ids, dtype=np.int32)
            for batch in batches
            for encoding in tokenizer.encode_batch(list(batch))
        )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Ids by token from a file with one token per line.

    Raises:
        InputError: the file is missing or not text, a token is empty or occurs twice, [PAD] is not
            the first one or another special token is missing.
    """
    path = path / "vocab.txt" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"cannot read the vocabulary {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"the vocabulary {path} is not UTF-8 text, one token per line") from None
    if lines[-1] == "":
        lines.pop()
    ids: dict[str, int] = {}
    for number, token in enumerate((line.rstrip("\r") for line in lines), start=1):
        if not token:
            raise InputError(f"{path}, line {number}: the token is empty")
        if token in ids:
            raise InputError(
                f"{path}, line {number}: token {token!r} is already on line {ids[token] + 1}"
            )
        ids[token] = number - 1
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"the vocabulary {path} lacks {', '.join(missing)}")
    if ids[PAD] != 0:
        raise InputError(f"{path}: {PAD} is on line {ids[PAD] + 1}; it should be the first token")
    return ids


def _hub_vocabulary() -> dict[str, int]:
    with hub_errors(f"the vocabulary {HUB_TOKENIZER}", "--tokenizer FILE"):
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(HUB_TOKENIZER, "vocab.txt", revision=HUB_TOKENIZER_REVISION)
    return read_vocabulary(Path(file))
