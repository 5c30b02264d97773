"""The examples of one split: token ids, labels and lengths, and what is asked of them."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from keelback.errors import InputError

SplitName = Literal["train", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Split:
    """The examples of one split, padded to one length.

    `tokens` is int32 (which `torch.nn.functional.embedding` takes as it is), `labels` is int64.
    `lengths` counts the tokens of each sequence before padding.

    Examples:
        >>> tokens, labels = torch.zeros(2, 5, dtype=torch.int32), torch.tensor([0, 1])
        >>> len(Split(tokens, labels, lengths=torch.tensor([5, 3])))
        2
    """

    tokens: Int[Tensor, "examples length"]
    labels: Int[Tensor, " examples"]
    lengths: Int[Tensor, " examples"]

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.labels) == len(self.lengths):
            raise ValueError(
                f"a split needs one label and one length for each sequence, not "
                f"{len(self.tokens)} sequences, {len(self.labels)} labels, "
                f"{len(self.lengths)} lengths"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def seq_len(self) -> int:
        """The padded length: the position that a last-position head reads is `seq_len - 1`."""
        return self.tokens.shape[1]

    def first(self, count: int) -> "Split":
        """The first `count` examples, as views."""
        return Split(self.tokens[:count], self.labels[:count], self.lengths[:count])

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return Split(self.tokens.to(device), self.labels.to(device), self.lengths.to(device))


def checked_split(split: object, vocab_size: int, n_classes: int) -> Split:
    """The split, with int32 tokens, int64 labels and lengths, if it is one.

    Raises:
        InputError: it is not a `Split` of integer tensors in the processor's memory, it has no
            examples, a token is outside the vocabulary, a label outside the classes, or a length
            not from 1 to the padded length. Examples and positions are counted from 0.
    """
    if not isinstance(split, Split):
        raise InputError(f"{_kind(split)} is no keelback.data.Split")
    tokens, labels, lengths = (
        _integers(name, getattr(split, name), ndim)
        for name, ndim in (("tokens", 2), ("labels", 1), ("lengths", 1))
    )
    examples, length = tokens.shape
    for name, tensor in (("labels", labels), ("lengths", lengths)):
        if len(tensor) != examples:
            raise InputError(f"{examples} sequences and {len(tensor)} {name}; one each is needed")
    if not examples or not length:
        raise InputError(f"there are {examples} sequences of {length} tokens; 1 or more are needed")
    _require_range("token", tokens, 0, vocab_size - 1, f"the vocabulary has {vocab_size} tokens")
    _require_range("label", labels, 0, n_classes - 1, f"there are {n_classes} classes")
    _require_range("length", lengths, 1, length, f"the sequences are padded to {length} tokens")
    return Split(tokens.to(torch.int32), labels.to(torch.int64), lengths.to(torch.int64))


def _integers(name: str, tensor: object, ndim: int) -> Tensor:
    wanted = f"a tensor of integers with {ndim} {'axis' if ndim == 1 else 'axes'}"
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is {_kind(tensor)}; it should be {wanted}")
    if tensor.dtype not in _INTEGERS or tensor.ndim != ndim:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{name} is {kind} of shape {tuple(tensor.shape)}; it should be {wanted}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InputError(
            f"{name} is a {str(tensor.layout).removeprefix('torch.')} tensor on "
            f"{tensor.device.type}; it should be an ordinary tensor on the cpu"
        )
    return tensor.as_subclass(Tensor)


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _require_range(what: str, tensor: Tensor, low: int, high: int, because: str) -> None:
    least, most = (int(value) for value in tensor.aminmax())
    if least >= low and most <= high:
        return
    wide = tensor.long()
    wrong = ((wide < low) | (wide > high)).nonzero()[0].tolist()
    where = f"example {wrong[0]}" + (f", position {wrong[1]}" if len(wrong) > 1 else "")
    raise InputError(
        f"the {what} of {where} is {int(tensor[tuple(wrong)])}; {because}, so that it should be "
        f"{low} to {high}"
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
