"""Majority: are more than half of the bits ones?"""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from keelback.data.split import Split, SplitName
from keelback.data.task import Task, TaskSettings, register_task
from keelback.memory import require_memory


class MajoritySettings(TaskSettings):
    """Length, sizes and seed; `flip_probability` is the noise on the training split's ones.

    Examples:
        >>> MajoritySettings(seq_len=50).flip_probability
        0.25
    """

    seq_len: int = Field(ge=1)
    n_train: int = Field(default=1000, ge=1)
    n_test: int = Field(default=1000, ge=1)
    flip_probability: float = Field(default=0.25, ge=0.0, le=1.0)


@register_task
class Majority(Task):
    """Label 1 where a string of `seq_len` bits holds more than `seq_len / 2` ones.

    The number of ones is uniform on {0, ..., seq_len} and their places are random. In the training
    split each one is then turned to zero with probability 1/4 and the label kept; the test split
    stays clean. Bits come from NumPy's legacy generator in a fixed order, so that seed s gives the
    split of seed s of Honarpisheh et al. 2025 (arXiv 2502.01473).

    Examples:
        >>> train = Majority(MajoritySettings(seq_len=11, n_train=4)).split("train")
        >>> train.tokens.shape, len(train)
        (torch.Size([4, 11]), 4)
    """

    name: ClassVar[str] = "majority"
    settings_type = MajoritySettings
    vocab_size = 2
    n_classes: ClassVar[int] = 2
    shifted_test: ClassVar[bool] = True
    settings: MajoritySettings

    def require_room(self) -> None:
        """Check that the bits of both splits fit."""
        count = self.settings.n_train + self.settings.n_test
        require_memory(12.0 * count * self.settings.seq_len, "the bits of both splits")

    def split(self, name: SplitName) -> Split:
        """Draw both splits, since they share one stream of random numbers, and return one."""
        self.require_room()
        settings = self.settings
        rng = np.random.RandomState(settings.data_seed)
        train, train_labels = _strings(rng, settings.n_train, settings.seq_len)
        test, test_labels = _strings(rng, settings.n_test, settings.seq_len)
        if name == "test":
            return _as_split(test, test_labels)
        train[(rng.rand(*train.shape) < settings.flip_probability) & (train == 1)] = 0
        return _as_split(train, train_labels)


def _strings(
    rng: np.random.RandomState, count: int, seq_len: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    ones = rng.randint(0, seq_len + 1, size=count)
    bits = (np.arange(seq_len) < ones[:, None]).astype(np.int32)
    for row in bits:
        rng.shuffle(row)
    return bits, (ones > seq_len / 2).astype(np.int64)


def _as_split(bits: npt.NDArray[np.int32], labels: npt.NDArray[np.int64]) -> Split:
    return Split(
        tokens=torch.from_numpy(bits),
        labels=torch.from_numpy(labels),
        lengths=torch.full((len(labels),), bits.shape[1]),
    )
