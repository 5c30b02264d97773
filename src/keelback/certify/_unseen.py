"""Whether examples that should be unseen are copies of training examples, and what follows."""

from dataclasses import dataclass
from typing import Any

import torch

from keelback.certify._held_out import take
from keelback.certify._overlap import Overlap, Policy, find_overlap
from keelback.data import Split, Task
from keelback.errors import InputError

_FEWEST_TOKENS = 16
"""With a smaller vocabulary, short runs of tokens agree by chance: near copies mean nothing."""


@dataclass(frozen=True)
class Unseen:
    """Examples for a certificate, and what was found among them.

    Attributes:
        split: the examples that are counted.
        overlap: copies among all examples.
        drawn: whether a program draws the examples independently, so that copies are chance.
        near_copies: whether near copies were looked for.
        policy: what became of copies.
    """

    split: Split
    overlap: Overlap
    drawn: bool
    near_copies: bool
    policy: Policy

    def as_dict(self) -> dict[str, Any]:
        """The counts for JSON; near is None where near copies were not looked for."""
        counts = self.overlap.counts() | ({} if self.near_copies else {"near": None})
        policy = None if self.drawn else self.policy
        return {**counts, "drawn": self.drawn, "policy": policy, "counted": len(self.split)}

    def notice(self, what: str) -> str:
        """One sentence: what was found among `what`."""
        copies = described(self.overlap, self.near_copies)
        if self.drawn:
            return (
                f"The {what} are drawn independently by a program; by chance "
                f"{len(self.overlap.exact)} of them coincide with training examples and "
                f"{len(self.overlap.within)} with each other."
            )
        if not self.overlap:
            return f"Among the {what} there are {copies}."
        if self.policy == "drop":
            return f"Left out of the {what}: {copies}."
        return f"WARNING: among the {what} there are {copies}, counted as if they were new."


def unseen(task: Task, split: Split, training: Split, what: str, policy: Policy) -> Unseen:
    """Look for copies of training examples in a split, and of the split's own examples.

    Examples that a program draws independently of each other may coincide by chance; they are
    counted and stay. A task counts as such a program if it has no `fingerprint` of loaded data and
    another data seed gives other data.

    Args:
        task: where the examples come from.
        split: the examples that should be unseen.
        training: the examples that were seen.
        what: the split in words, for the message.
        policy: what to do about copies.

    Raises:
        InputError: there are copies and the policy is to refuse, or nothing is left.
    """
    drawn = _is_drawn(task)
    near = not drawn and task.vocab_size >= _FEWEST_TOKENS
    overlap = find_overlap(_rows(split), _rows(training), near=near)
    if drawn or not overlap or policy == "allow":
        return Unseen(split, overlap, drawn, near, policy)
    if policy == "refuse":
        raise InputError(
            f"there are {described(overlap, near)} among the {len(split)} {what}, so that no "
            "certificate holds for new ones: --drop-overlap leaves them out, --allow-overlap "
            "counts them and says so"
        )
    kept = overlap.kept(len(split))
    if not kept:
        raise InputError(f"all of the {len(split)} {what} are copies: nothing is left to certify")
    return Unseen(take(split, torch.tensor(kept)), overlap, drawn, near, policy)


def _is_drawn(task: Task) -> bool:
    if task.fingerprint() is not None:
        return False
    own, other = task.split("test"), task.fresh().split("test")
    return own.tokens.shape != other.tokens.shape or not torch.equal(own.tokens, other.tokens)


def _rows(split: Split) -> list[list[int]]:
    lengths = split.lengths.tolist()
    return [row[:length] for row, length in zip(split.tokens.tolist(), lengths, strict=True)]


def described(overlap: Overlap, near_copies: bool) -> str:
    """What was found of copies, in words."""
    near = f" and {len(overlap.near)} near" if near_copies else ""
    only = "" if near_copies else " (near ones were not looked for)"
    return (
        f"{len(overlap.exact)} exact{near} copies of training examples{only} and "
        f"{len(overlap.within)} repeated examples"
    )
