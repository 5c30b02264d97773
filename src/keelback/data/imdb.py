"""IMDb: is a film review positive?"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from keelback.data.cache import CacheKey, TokenisedTexts, cached_tokens
from keelback.data.ragged import PaddingSide
from keelback.data.reviews import find_reviews
from keelback.data.split import SPLIT_NAMES, Split, SplitName
from keelback.data.task import Task, TaskSettings, register_task
from keelback.data.wordpiece import WordPiece
from keelback.errors import InputError


class IMDbSettings(TaskSettings):
    """Which reviews, how tokenised, and to how many tokens cut or padded.

    `data`: a folder in the Hub's Parquet layout, an `aclImdb` tree, or CSV files; the Hub if not
    given. `tokenizer`: a WordPiece vocabulary; that of BERT uncased on the Hub if not given.
    `n_train` and `n_test`: how many reviews to draw, by `data_seed`; all in their order if not
    given.

    Examples:
        >>> IMDbSettings(seq_len=200, n_train=1000).padding_side
        'right'
    """

    seq_len: int = Field(ge=2)
    n_train: int | None = Field(default=None, ge=1)
    n_test: int | None = Field(default=None, ge=1)
    padding_side: PaddingSide = "right"
    data: Path | None = None
    tokenizer: Path | None = None


@register_task
class IMDb(Task):
    """25,000 film reviews for training and 25,000 for testing, label 1 where positive.

    Lower-cased BERT WordPiece, `[CLS] ... [SEP]`, cut and padded with id 0 to exactly `seq_len`
    tokens. The reviews are tokenised once, and their tokens kept in `cache_folder()`. Data: Maas et
    al. 2011, "Learning Word Vectors for Sentiment Analysis".

    Examples:
        >>> from keelback.errors import InputError
        >>> try:
        ...     IMDb(IMDbSettings(seq_len=200, data="nowhere")).split("test")
        ... except InputError as error:
        ...     print(type(error).__name__)
        InputError
    """

    name: ClassVar[str] = "imdb"
    settings_type = IMDbSettings
    n_classes: ClassVar[int] = 2
    pad_id: ClassVar[int | None] = 0
    settings: IMDbSettings

    def __init__(self, settings: IMDbSettings) -> None:
        super().__init__(settings)
        self._tokenizer = WordPiece(settings.tokenizer)

    @property
    def vocab_size(self) -> int:
        """30,522 for BERT uncased; otherwise the number of tokens in the vocabulary file."""
        return self._tokenizer.vocab_size

    def fingerprint(self) -> str:
        """Digests of the reviews of both splits and of the vocabulary."""
        sources = [find_reviews(self.settings.data, name).fingerprint for name in SPLIT_NAMES]
        return " ".join([*sources, self._tokenizer.fingerprint])

    @property
    def held_out(self) -> bool:
        """False where `data` is one file."""
        return self.settings.data is None or not self.settings.data.is_file()

    def tokenised(self, name: SplitName) -> TokenisedTexts:
        """All reviews of the split, untruncated, with [CLS] and [SEP], from the cache or into it.

        Raises:
            InputError: the reviews or the vocabulary cannot be had, or the cache cannot be used.
        """
        source = find_reviews(self.settings.data, name)

        def tokenise() -> TokenisedTexts:
            reviews = source.read()
            return TokenisedTexts(self._tokenizer.encode(reviews.texts), reviews.labels)

        key = CacheKey(self.name, name, source.fingerprint, self._tokenizer.fingerprint)
        return cached_tokens(key, tokenise)

    def split(self, name: SplitName) -> Split:
        """The split's reviews at `seq_len` tokens."""
        texts = self.tokenised(name)
        rows = self._rows(name, len(texts.labels))
        sequences = texts.sequences.take(rows).truncated(self.settings.seq_len)
        tokens = sequences.padded(0, self.settings.seq_len, self.settings.padding_side)
        return Split(
            tokens=torch.from_numpy(tokens),
            labels=torch.from_numpy(texts.labels[rows]),
            lengths=torch.from_numpy(sequences.lengths),
        )

    def _rows(self, name: SplitName, available: int) -> npt.NDArray[np.int64]:
        wanted = self.settings.n_train if name == "train" else self.settings.n_test
        if wanted is None:
            return np.arange(available)
        if wanted > available:
            raise InputError(
                f"imdb has {available} reviews in its {name} split, n_{name} asks for {wanted}"
            )
        return np.random.default_rng(self.settings.data_seed).permutation(available)[:wanted]
