"""Token ids to run a model on: from a text through a tokenizer, or straight from a file."""

from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from keelback.audit._hub import why_not_there
from keelback.errors import InputError
from keelback.files import parsed_json


class Tokenizer(Protocol):
    """Text to ids, and an id back to something to read."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        ...

    def label(self, token: int) -> str:
        """How to show a token; any text at all, so escape it before it meets HTML."""
        ...


class ByteTokenizer:
    """The 256 byte values of UTF-8."""

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def label(self, token: int) -> str:
        """The character, where a byte alone is one; else its value in hexadecimal."""
        return chr(token) if 32 <= token < 127 else f"0x{token:02x}"


class LibraryTokenizer:
    """A tokenizer of transformers or tokenizers."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        encoded = self._inner.encode(text, add_special_tokens=False)
        return list(getattr(encoded, "ids", encoded))

    def label(self, token: int) -> str:
        """The token decoded on its own."""
        return str(self._inner.decode([token]))


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer that `source` names: `bytes`, a `tokenizer.json`, a folder, or a Hub name.

    Raises:
        InputError: nothing there that transformers or tokenizers can read as a tokenizer.

    Examples:
        >>> tokenizer = load_tokenizer("bytes")
        >>> tokenizer.encode("keel"), tokenizer.label(107)
        ([107, 101, 101, 108], 'k')
    """
    if str(source) == "bytes":
        return ByteTokenizer()
    path = Path(source).expanduser()
    files = ("tokenizer.json", "tokenizer_config.json")
    why_not = None if path.exists() else why_not_there(str(source), *files)
    if why_not is not None:
        raise _no_tokenizer(source, why_not)
    try:
        if path.is_file():
            import tokenizers

            return LibraryTokenizer(tokenizers.Tokenizer.from_file(str(path)))
        import transformers

        inner = transformers.AutoTokenizer.from_pretrained(
            str(path if path.exists() else source), trust_remote_code=False
        )
        return LibraryTokenizer(inner)
    except ImportError:
        raise InputError(
            f"reading the tokenizer {source} needs transformers: pip install 'keelback[hf]'"
        ) from None
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
        raise _no_tokenizer(source, " ".join(str(error).split()) or type(error).__name__) from None


def _no_tokenizer(source: str | Path, reason: str) -> InputError:
    return InputError(
        f"no tokenizer can be read from {source} ({reason[:160]}); give --tokenizer the path "
        "of a tokenizer.json or of a folder that holds one, or bytes"
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder brings its own tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return any((folder / name).is_file() for name in names)


def bundled_text() -> str:
    """William Morris, *News from Nowhere* (1890), chapters I to VI; in the public domain.

    Examples:
        >>> bundled_text()[:16]
        'CHAPTER I: DISCU'
    """
    file = resources.files("keelback.audit") / "texts" / "news_from_nowhere.txt"
    return file.read_text(encoding="utf-8")


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        InputError: no such file, or not UTF-8.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("mine.txt").write_text("A keel keeps a hull upright.", encoding="utf-8")
        >>> read_text(Path("mine.txt"))
        'A keel keeps a hull upright.'
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the text {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the text {path} is not UTF-8 (byte {error.start})") from None


def read_tokens(path: Path) -> Int[Tensor, " tokens"]:
    """Ids from a file: `.npy`, a JSON list, or whole numbers between white space.

    Raises:
        InputError: no such file, or something in it that is not a list of whole numbers.

    Examples:
        >>> from pathlib import Path
        >>> np.save("tokens.npy", np.array([3, 1, 4, 1, 5]))
        >>> read_tokens(Path("tokens.npy"))
        tensor([3, 1, 4, 1, 5])
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            values = np.array(parsed_json(path.read_text(encoding="utf-8")))
        else:
            values = np.array([int(word) for word in path.read_text(encoding="utf-8").split()])
    except OSError as error:
        raise InputError(f"the tokens {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"the tokens {path} are not whole numbers ({error})") from None
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"the tokens {path} must be one list of whole numbers; found an array of "
            f"{values.dtype} with shape {values.shape}"
        )
    return torch.from_numpy(values.astype(np.int64))


def check_tokens(tokens: Int[Tensor, "..."], vocab_size: int | None) -> None:
    """Refuse ids that the model has no embedding for.

    Raises:
        InputError: an id below 0 or not below `vocab_size`; the message says where.
    """
    too_large = torch.zeros_like(tokens, dtype=torch.bool)
    if vocab_size is not None:
        too_large = tokens >= vocab_size
    wrong = ((tokens < 0) | too_large).flatten().nonzero()
    if len(wrong):
        position = int(wrong[0])
        limit = f"from 0 to {vocab_size - 1}" if vocab_size is not None else "0 or more"
        raise InputError(
            f"token {position} is {int(tokens.flatten()[position])}; this model's ids are {limit}. "
            "Is it the right tokenizer?"
        )


def cut(tokens: Tensor, length: int | None) -> Int[Tensor, "sequences length"]:
    """Sequences of `length`; what `(sequences, length)` tokens are already if it is not given.

    Raises:
        InputError: fewer tokens than that, or another shape.
    """
    if tokens.numel() < 2:
        raise InputError(f"at least 2 tokens are needed; there are {tokens.numel()}")
    if tokens.ndim == 2 and length is None:
        return tokens.long()
    if tokens.ndim > 2 or (tokens.ndim == 2 and length is not None and length > tokens.shape[1]):
        raise InputError(
            f"tokens of shape {tuple(tokens.shape)} cannot be cut into sequences of {length}"
        )
    tokens = tokens.flatten().long()
    length = length or len(tokens)
    if length < 2 or length > len(tokens):
        raise InputError(
            f"the text has {len(tokens)} tokens and a length of {length} was asked for; "
            "give a longer text or a length from 2 to that"
        )
    whole = len(tokens) // length
    return tokens[: whole * length].view(whole, length)
