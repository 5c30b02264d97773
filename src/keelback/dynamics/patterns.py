"""Sequences of feature patterns: majority voting and locality (arXiv 2602.12499, section 3).

A clean token is one of `dim` orthonormal features; the first ones belong to the classes (with two
classes: o_+ and o_-), all others are irrelevant. Noise is added to every token. Features here are
the standard basis; `rotate` expresses a batch in any other orthonormal basis.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.dynamics.noise import Noise
from keelback.errors import InputError
from keelback.memory import require_memory


@runtime_checkable
class Pattern(Protocol):
    """Where the features of a sequence stand, given its class.

    Examples:
        >>> isinstance(Locality(near=2, far=4, length=8, dim=8), Pattern)
        True
    """

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        ...

    @property
    def dim(self) -> int:
        """Number of features, and of coordinates of a token."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes; features 0 .. classes-1 are the classes' own."""
        ...

    def place(
        self, labels: Int[Tensor, " samples"], generator: torch.Generator
    ) -> Int[Tensor, "samples length"]:
        """Draw the feature of every token of a sequence of each label."""
        ...


def _check_dimensions(name: str, length: int, dim: int, classes: int) -> None:
    if length < 1:
        raise InputError(f"{name}: a sequence has at least one token, not {length}")
    if classes < 2:
        raise InputError(f"{name}: there are at least two classes, not {classes}")
    if dim <= classes:
        raise InputError(
            f"{name}: {classes} class features and at least one irrelevant feature need "
            f"{classes + 1} dimensions or more, not {dim}"
        )


def _whole_tokens(name: str, option: str, fraction: float, length: int) -> int:
    tokens = fraction * length
    if not 0 <= fraction <= 1 or abs(tokens - round(tokens)) > 1e-6:
        raise InputError(
            f"{name}: {option} = {fraction:g} is not a whole number of the {length} tokens "
            f"(k / {length} for a whole k from 0 to {length})"
        )
    return round(tokens)


def _irrelevant(
    pattern: Pattern, labels: Int[Tensor, " samples"], generator: torch.Generator
) -> Int[Tensor, "samples length"]:
    return torch.randint(
        pattern.classes,
        pattern.dim,
        (len(labels), pattern.length),
        generator=generator,
        device=generator.device,
    )


@dataclass(frozen=True)
class MajorityVoting:
    """The class is the class feature that occurs most.

    `relevant` (alpha_r) of the tokens carry the own class's feature, `confusing` (alpha_c) that of
    each other class, at random positions; the rest are irrelevant features, drawn uniformly.

    Examples:
        >>> vote = MajorityVoting(relevant=0.4, confusing=0.1, length=30, dim=16)
        >>> vote.own_tokens, vote.other_tokens, round(vote.gap, 3)
        (12, 3, 0.3)
    """

    relevant: float
    confusing: float
    length: int = 30
    dim: int = 32
    classes: int = 2

    def __post_init__(self) -> None:
        _check_dimensions("majority voting", self.length, self.dim, self.classes)
        taken = self.own_tokens + (self.classes - 1) * self.other_tokens
        if taken > self.length:
            raise InputError(
                f"majority voting: the class features fill {taken} tokens, more than the "
                f"{self.length} of a sequence; lower alpha_r or alpha_c"
            )
        if self.own_tokens <= self.other_tokens:
            raise InputError(
                f"majority voting: alpha_r = {self.relevant:g} must exceed "
                f"alpha_c = {self.confusing:g}, or no class has the majority"
            )

    @property
    def own_tokens(self) -> int:
        """Tokens that carry the own class's feature."""
        return _whole_tokens("majority voting", "alpha_r", self.relevant, self.length)

    @property
    def other_tokens(self) -> int:
        """Tokens that carry the feature of each other class."""
        return _whole_tokens("majority voting", "alpha_c", self.confusing, self.length)

    @property
    def gap(self) -> float:
        """alpha_r - alpha_c."""
        return self.relevant - self.confusing

    def place(
        self, labels: Int[Tensor, " samples"], generator: torch.Generator
    ) -> Int[Tensor, "samples length"]:
        """Draw the feature of every token of a sequence of each label."""
        features = _irrelevant(self, labels, generator)
        keys = torch.rand(features.shape, generator=generator, device=generator.device)
        order = keys.argsort(dim=1)
        start = 0
        for rank in range(self.classes):
            count = self.own_tokens if rank == 0 else self.other_tokens
            feature = (labels[:, None] + rank) % self.classes
            features.scatter_(1, order[:, start : start + count], feature.expand(-1, count))
            start += count
        return features


@dataclass(frozen=True)
class Locality:
    """The class is the class feature whose two occurrences lie close together.

    Every sequence holds two o_+ and two o_-. The own class's pair lies `near` positions apart, the
    other's `far`; where the pairs stand is uniform over all placements that fit without overlap.

    Examples:
        >>> Locality(near=3, far=12, length=20, dim=16).gap
        0.124755859375
    """

    near: int
    far: int
    length: int = 30
    dim: int = 32

    def __post_init__(self) -> None:
        _check_dimensions("locality", self.length, self.dim, self.classes)
        if not 1 <= self.near < self.far:
            raise InputError(
                f"locality: the separations are whole numbers with 1 <= near < far, "
                f"not near = {self.near}, far = {self.far}"
            )
        places = max(0, self.length - self.near) * max(0, self.length - self.far)
        require_memory(40.0 * places, "the placements of the pairs")
        if len(self.placements) == 0:
            raise InputError(
                f"locality: pairs {self.near} and {self.far} apart do not fit a sequence of "
                f"{self.length} tokens without overlap; {self.near + self.far + 2} tokens always do"
            )

    @property
    def classes(self) -> int:
        """Two: o_+ and o_-."""
        return 2

    @property
    def gap(self) -> float:
        """2^-near - 2^-far, the quantity that the theorem's rates depend on."""
        return float(2.0**-self.near - 2.0**-self.far)

    @cached_property
    def placements(self) -> np.ndarray:
        """All valid (first of the near pair, first of the far pair), shape (placements, 2)."""
        near = np.arange(max(self.length - self.near, 0))
        far = np.arange(max(self.length - self.far, 0))
        first, second = (grid.ravel() for grid in np.meshgrid(near, far, indexing="ij"))
        clash = (
            (first == second)
            | (first + self.near == second)
            | (first == second + self.far)
            | (first + self.near == second + self.far)
        )
        return np.stack([first[~clash], second[~clash]], axis=1)

    def place(
        self, labels: Int[Tensor, " samples"], generator: torch.Generator
    ) -> Int[Tensor, "samples length"]:
        """Draw the feature of every token of a sequence of each label."""
        features = _irrelevant(self, labels, generator)
        table = _placements_on(self, generator.device)
        choice = torch.randint(
            len(table), (len(labels),), generator=generator, device=generator.device
        )
        near, far = table[choice].unbind(1)
        own, other = labels[:, None], 1 - labels[:, None]
        features.scatter_(1, torch.stack([near, near + self.near], 1), own.expand(-1, 2))
        features.scatter_(1, torch.stack([far, far + self.far], 1), other.expand(-1, 2))
        return features


@functools.lru_cache(maxsize=64)
def _placements_on(pattern: Locality, device: torch.device) -> Int[Tensor, "placements 2"]:
    """The placements on a device: to copy them there at each draw would wait for its work."""
    return torch.as_tensor(pattern.placements, device=device)


@dataclass(frozen=True)
class PatternBatch:
    """Noisy tokens, the feature under each, and the classes.

    Examples:
        >>> vote = MajorityVoting(0.4, 0.1, length=30, dim=16)
        >>> batch = sample_patterns(vote, 8, GaussianNoise(0.02), torch.Generator().manual_seed(0))
        >>> batch.features.shape
        torch.Size([8, 30])
    """

    tokens: Float[Tensor, "samples length dim"]
    features: Int[Tensor, "samples length"]
    labels: Int[Tensor, " samples"]

    @property
    def signs(self) -> Float[Tensor, " samples"]:
        """+1 for class 0 (o_+), -1 for every other class: z in the paper."""
        return torch.where(self.labels == 0, 1.0, -1.0).to(self.tokens.dtype)


def sample_features(
    pattern: Pattern, samples: int, generator: torch.Generator, *, paired: bool = False
) -> tuple[Int[Tensor, "samples length"], Int[Tensor, " samples"]]:
    """Draw the features and labels of sequences alone: those of `sample_patterns`, without tokens.

    Raises:
        InputError: as `sample_patterns`.
    """
    features, labels = _drawn(pattern, samples, generator, paired)
    if not paired:
        return features, labels
    relabels = [
        _relabel(pattern.classes, pattern.dim, shift, features.device)
        for shift in range(pattern.classes)
    ]
    return (
        torch.cat([relabel[features] for relabel in relabels]),
        torch.cat([relabel[labels] for relabel in relabels]),
    )


def sample_patterns(
    pattern: Pattern,
    samples: int,
    noise: Noise,
    generator: torch.Generator,
    *,
    paired: bool = False,
) -> PatternBatch:
    """Draw sequences in balanced classes, all at once, on the generator's device.

    Labels cycle through the classes, so that class sizes differ by one at most. With `paired`
    every sequence appears once for each class: the class features are exchanged cyclically in the
    whole token, noise included, so that nothing but the class features tells the classes apart.

    Raises:
        InputError: for fewer samples than classes, or (paired) a number of samples that is not a
            multiple of the number of classes.

    Examples:
        >>> vote = MajorityVoting(0.4, 0.1, length=30, dim=16)
        >>> batch = sample_patterns(vote, 8, GaussianNoise(0.02), torch.Generator().manual_seed(0))
        >>> batch.tokens.shape, batch.labels.tolist()
        (torch.Size([8, 30, 16]), [0, 1, 0, 1, 0, 1, 0, 1])
    """
    features, labels = _drawn(pattern, samples, generator, paired)
    tokens = noise.draw((*features.shape, pattern.dim), generator)
    tokens.scatter_add_(2, features[..., None], tokens.new_ones(1).expand(*features.shape, 1))
    batch = PatternBatch(tokens, features, labels)
    return _exchanged(batch, pattern) if paired else batch


def _drawn(
    pattern: Pattern, samples: int, generator: torch.Generator, paired: bool
) -> tuple[Tensor, Tensor]:
    """Features and labels of sequences that are drawn; with `paired`, before they are exchanged."""
    classes = pattern.classes
    if samples < classes:
        raise InputError(f"patterns: {samples} samples cannot hold all {classes} classes")
    if paired and samples % classes:
        raise InputError(
            f"patterns: paired data come in groups of {classes}; {samples} is not a multiple"
        )
    drawn = samples // classes if paired else samples
    if generator.device.type == "cpu":
        require_memory(8.0 * samples * pattern.length * pattern.dim, "the tokens of the sequences")
    labels = torch.arange(drawn, device=generator.device) % classes
    return pattern.place(labels, generator), labels


def _relabel(classes: int, dim: int, shift: int, device: torch.device) -> Tensor:
    """What each feature becomes when the classes are exchanged by `shift` places."""
    relabel = torch.arange(dim, device=device)
    relabel[:classes] = (relabel[:classes] + shift) % classes
    return relabel


def _exchanged(batch: PatternBatch, pattern: Pattern) -> PatternBatch:
    tokens, features, labels = [], [], []
    for shift in range(pattern.classes):
        relabel = _relabel(pattern.classes, pattern.dim, shift, batch.tokens.device)
        tokens.append(batch.tokens[..., relabel.argsort()])
        features.append(relabel[batch.features])
        labels.append(relabel[batch.labels])
    return PatternBatch(torch.cat(tokens), torch.cat(features), torch.cat(labels))


def rotate(batch: PatternBatch, basis: Float[Tensor, "dim dim"]) -> PatternBatch:
    """Express the tokens in another basis: feature k becomes column k of the orthogonal `basis`.

    Examples:
        >>> vote = MajorityVoting(0.4, 0.1, length=30, dim=16)
        >>> batch = sample_patterns(vote, 8, GaussianNoise(0.0), torch.Generator().manual_seed(0))
        >>> torch.equal(rotate(batch, torch.eye(16)).tokens, batch.tokens)
        True
    """
    return PatternBatch(batch.tokens @ basis.T, batch.features, batch.labels)


def stream(seed: int, purpose: Sequence[int] | int, device: str = "cpu") -> torch.Generator:
    """Return the random stream of one purpose of one seed; streams are independent of each other.

    The numbers depend on the seed, the purpose and the kind of device only: not on what else is
    drawn, nor on which other replicas share a batch.

    Raises:
        InputError: for a seed below 0.
    """
    if seed < 0:
        raise InputError(f"patterns: the seed is a whole number from 0 up, not {seed}")
    entropy = [seed, *([purpose] if isinstance(purpose, int) else purpose)]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state % 2**63)
