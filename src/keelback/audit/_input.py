"""What to run a model on when its user names a text, a file of ids, or neither."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.audit._model import ASSUMED_TRAIN_LENGTH
from keelback.audit._tokens import (
    bundled_text,
    has_tokenizer,
    load_tokenizer,
    read_text,
    read_tokens,
)
from keelback.audit.checkpoints import LoadedModel
from keelback.errors import InputError

SHORT_LENGTH = 4096
"""Tokens that a default length may always have, whatever the training length."""


def read_input(
    loaded: LoadedModel,
    *,
    text: Path | None = None,
    tokens: Path | None = None,
    tokenizer: str | None = None,
) -> tuple[Int[Tensor, " tokens"], Callable[[int], str] | None]:
    """The ids to run on, and how to show one if that is known.

    Args:
        loaded: the model; its folder or its name on the Hub may bring a tokenizer.
        text: a text file; the bundled text if neither this nor `tokens` is given.
        tokens: a file of ids.
        tokenizer: in place of the model's own; see `load_tokenizer`.

    Raises:
        InputError: both a text and tokens, no tokenizer to be found, or an unreadable file.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.models import MambaLanguageModelConfig
        >>> _ = Path("mine.txt").write_text("A keel keeps a hull upright.", encoding="utf-8")
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16).build()
        >>> loaded = LoadedModel(model, "mine")
        >>> tokens, label = read_input(loaded, text=Path("mine.txt"), tokenizer="bytes")
        >>> tokens.shape, label(int(tokens[0]))
        (torch.Size([28]), 'A')
    """
    if text is not None and tokens is not None:
        raise InputError("--text and --tokens were both given; give one of them")
    if tokens is not None:
        chosen = None if tokenizer is None else load_tokenizer(tokenizer)
        return read_tokens(tokens), None if chosen is None else chosen.label
    content = bundled_text() if text is None else read_text(text)
    chosen = load_tokenizer(tokenizer or _own_tokenizer(loaded))
    return torch.tensor(chosen.encode(content), dtype=torch.long), chosen.label


def _own_tokenizer(loaded: LoadedModel) -> str:
    if loaded.on_hub:
        return loaded.name
    if loaded.folder is None or not has_tokenizer(loaded.folder):
        raise InputError(
            f"{loaded.name} has no tokenizer; give --tokenizer PATH, --tokenizer bytes, or "
            "--tokens FILE"
        )
    return str(loaded.folder)


def read_features(path: Path) -> Float[Tensor, "features d_model"]:
    """Feature directions from a `.npy` file, one a row.

    Raises:
        InputError: no such file, not a matrix of numbers, or a row that is not finite.

    Examples:
        >>> from pathlib import Path
        >>> np.save("features.npy", np.zeros((100, 16), dtype=np.float32))
        >>> read_features(Path("features.npy")).shape
        torch.Size([100, 16])
    """
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"the features {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"the features {path} are not a NumPy array ({error})") from None
    if not isinstance(values, np.ndarray):
        raise InputError(f"the features {path} are several arrays; save one as .npy")
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise InputError(
            f"the features {path} must be a matrix of finite numbers, one direction per row; found "
            f"{values.dtype} with shape {values.shape}"
        )
    return torch.from_numpy(values.astype(np.float32))


def default_length(available: int, train_length: int | None) -> int:
    """Sixteen training lengths, but no more than 4096 tokens unless two lengths exceed that.

    Without a text that is longer than the training length, there is no more to see at its end than
    at 4096 tokens.

    Examples:
        >>> default_length(available=10_000, train_length=512)
        4096
    """
    train_length = train_length or ASSUMED_TRAIN_LENGTH
    if available <= train_length:
        return min(available, SHORT_LENGTH)
    return min(available, 16 * train_length, max(SHORT_LENGTH, 2 * train_length))
