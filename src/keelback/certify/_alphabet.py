"""What a language model reads and predicts: bytes, or tokens that merges of bytes make."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from keelback.errors import InputError, JobError
from keelback.extras import require_extra
from keelback.progress import tell

BYTES = 256
_LARGEST = 1 << 16

_BLANKS = r" \t\n\r\x0b\x0c"
_LETTERS = f"A-Za-z{chr(0x80)}-{chr(0xFF)}"
PIECES = f" ?[{_LETTERS}]+| ?[0-9]+| ?[^{_BLANKS}0-9{_LETTERS}]+|[{_BLANKS}]"
"""What is never merged across: a document is cut into these first. Every byte is in one piece."""

Tokens = npt.NDArray[Any]
"""Tokens in their order, as whole numbers."""


@dataclass(frozen=True)
class Alphabet:
    """The 256 bytes, and tokens that are longer runs of bytes, each made of two others.

    Token `b` is the byte b; each pair of `merges` makes a token more, unless its run of bytes is
    one already. A document is cut into pieces (words with the blank before them, runs of digits, of
    other characters), and in each piece the pair that stands first in `merges` is merged until no
    pair is left, as in byte-pair encoding. The tokens of a document, joined, are its bytes.

    Attributes:
        merges: pairs of tokens, in the order in which they were found. None leaves bytes alone.

    Raises:
        InputError: a pair of tokens that are not there yet, or more than 65,536 tokens.

    Source: Sennrich, Haddow and Birch, ACL 2016; the `tokenizers` library.

    Examples:
        >>> pairs = Alphabet(((ord("k"), ord("e")), (256, ord("e"))))
        >>> pairs.runs[256:]
        (b'ke', b'kee')
        >>> [tokens.tolist() for tokens in pairs.encode([b"keel"])]
        [[257, 108]]
    """

    merges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        runs = self.runs
        if len(runs) > _LARGEST:
            raise InputError(f"an alphabet has at most {_LARGEST} tokens, not {len(runs)}")

    @classmethod
    def trained(cls, documents: Sequence[bytes], vocab_size: int) -> "Alphabet":
        """Merges of the commonest pairs in documents, up to `vocab_size` tokens.

        Raises:
            InputError: fewer than 256 tokens, or more than 65,536; the `tokenizers` library is
                missing.
        """
        if not BYTES <= vocab_size <= _LARGEST:
            raise InputError(f"an alphabet has {BYTES} to {_LARGEST} tokens, not {vocab_size}")
        if vocab_size == BYTES:
            return cls()
        require_extra("hf", "an alphabet of tokens", ["tokenizers"])
        import tokenizers

        tell("finding pairs of bytes to merge")
        found = _tokenizer(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=list(_CHARACTERS),
            special_tokens=[],
            show_progress=False,
        )
        found.train_from_iterator((own.decode("latin-1") for own in documents), trainer)
        numbers = {character: byte for byte, character in enumerate(_CHARACTERS)}
        merges = []
        for left, right in _pairs(found):
            merges.append((numbers[left], numbers[right]))
            numbers.setdefault(left + right, len(numbers))
        return cls(tuple(merges))

    @cached_property
    def runs(self) -> tuple[bytes, ...]:
        """The bytes of each token."""
        runs = [bytes([byte]) for byte in range(BYTES)]
        known = set(runs)
        for left, right in self.merges:
            if not 0 <= max(left, right) < len(runs) or min(left, right) < 0:
                raise InputError(f"a merge of tokens that are not there yet: {left}, {right}")
            run = runs[left] + runs[right]
            if run not in known:
                known.add(run)
                runs.append(run)
        return tuple(runs)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.runs)

    def encode(self, documents: Sequence[bytes]) -> list[Tokens]:
        """The tokens of each document.

        Raises:
            InputError: the `tokenizers` library is missing.
            JobError: tokens that are not the document's bytes.
        """
        if not self.merges:
            return [np.frombuffer(own, dtype=np.uint8).astype(np.int64) for own in documents]
        found = []
        for start in range(0, len(documents), _AT_ONCE):
            some = documents[start : start + _AT_ONCE]
            read = self._encoder.encode_batch(
                [own.decode("latin-1") for own in some], add_special_tokens=False
            )
            for document, encoding in zip(some, read, strict=True):
                if b"".join(self.runs[token] for token in encoding.ids) != document:
                    raise JobError("a document's tokens are not its bytes")
                found.append(np.array(encoding.ids, dtype=np.int64))
            tell("finding the tokens of documents", start + len(some), len(documents))
        return found

    def joined(self, documents: Sequence[bytes]) -> Tokens:
        """The tokens of documents one after the other, a blank line between them, as int32."""
        between = np.frombuffer(b"\n\n", dtype=np.uint8)
        parts: list[Tokens] = []
        for tokens in self.encode(documents):
            parts += [between, tokens] if parts else [tokens]
        return np.concatenate(parts or [between[:0]]).astype(np.int32)

    @cached_property
    def _encoder(self) -> Any:
        require_extra("hf", "a model over tokens", ["tokenizers"])
        import tokenizers

        names = [run.decode("latin-1") for run in self.runs]
        pairs = [(names[left], names[right]) for left, right in self.merges]
        vocabulary = {name: number for number, name in enumerate(names)}
        return _tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))

    def as_dict(self) -> dict[str, Any]:
        """Number of tokens and merges, and the digest of the merges, for JSON."""
        return {
            "vocab_size": self.vocab_size,
            "merges": len(self.merges),
            "sha256": hashlib.sha256(np.array(self.merges, dtype="<u2").tobytes()).hexdigest(),
        }


_CHARACTERS = tuple(chr(byte) for byte in range(BYTES))
_AT_ONCE = 1000


def _tokenizer(model: Any) -> Any:
    """A tokenizer of the library for text in which each character is a byte (Latin-1)."""
    import tokenizers

    found = tokenizers.Tokenizer(model)
    found.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(PIECES), behavior="isolated"
    )
    return found


def _pairs(found: Any) -> list[tuple[str, str]]:
    """The merges of a trained tokenizer, in their order."""
    merges = json.loads(found.to_str())["model"]["merges"]
    return [(str(left), str(right)) for left, right in merges]


OF_BYTES = Alphabet()
"""The bytes alone."""
