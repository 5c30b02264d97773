"""What a training did: the record that is kept while it runs, and what it becomes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from keelback.dynamics.descent.training import GatedTraining

Status = Literal["reached", "censored", "diverged"]


@dataclass(frozen=True)
class GatedHistory:
    """What one training did.

    Attributes:
        status: "reached" its target; "censored": ran out of epochs first (or had no target);
            "diverged": a parameter stopped being finite.
        epochs_to_target: first measured epoch with test loss and accuracy at the target, or `None`.
        diverged_by: first measured epoch with a parameter that is not finite, or `None`.
        epochs: when the rest was measured, see `measured_epochs`; shape (times,).
        train_loss, test_loss, test_accuracy: mean hinge losses and share of signs right; (times,).
        test_ranking: chance that F is larger for a test sequence with z = +1 than for one with
            z = -1; unlike the accuracy it does not suffer where F is off by a constant; (times,).
        gating: w at those times, shape (times, dim).
        W_O: the readout at the end, shape (width, dim).
        progress: sum of the schedule's factors of all steps taken by those times, so that progress
            times step size is the time of gradient flow; where steps are constant it counts the
            steps; shape (times,).

    Examples:
        >>> empty = np.zeros(0)
        >>> history = GatedHistory("censored", None, None, *[empty] * 8)
        >>> history.status  # the target was not reached in the epochs that were allowed
        'censored'
    """

    status: Status
    epochs_to_target: int | None
    diverged_by: int | None
    epochs: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    test_ranking: np.ndarray
    gating: np.ndarray
    W_O: np.ndarray
    progress: np.ndarray


def measured_epochs(epochs: int, resolution: float = 0.02) -> list[int]:
    """Epochs at which the test loss is measured: every one at first, then `resolution` apart.

    An epoch count read off this grid is at most `resolution` (relative) late.
    """
    times = [0]
    while times[-1] < epochs:
        times.append(min(epochs, max(times[-1] + 1, int(times[-1] * (1 + resolution)))))
    return times


def settled(training: GatedTraining, train_loss: float) -> bool:
    """Whether all margins are met: the gradient is zero then, and every later epoch the same.

    Momentum and Adam move on without a gradient.
    """
    return training.source != "fresh" and training.optimizer == "gd" and train_loss == 0


@dataclass(frozen=True)
class Measures:
    """What is measured at one epoch; `gating` is w, `progress` as in `GatedHistory`."""

    train_loss: float
    test_loss: float
    test_accuracy: float
    finite: bool
    test_ranking: float
    progress: float
    gating: np.ndarray


class Log:
    """The measurements of one training while it runs."""

    def __init__(self, training: GatedTraining) -> None:
        self._training = training
        self._epochs: list[int] = []
        self._rows: list[Measures] = []
        self._reached: int | None = None
        self._diverged: int | None = None
        self._finished = False
        self._settled = False
        self.reported = False

    def add(self, epoch: int, row: Measures) -> None:
        """Take in what was measured, until the training is done."""
        if self._finished:
            return
        self._epochs.append(epoch)
        self._rows.append(row)
        if not row.finite:
            self._diverged = epoch
        elif self._reached is None and self._at_target(row):
            self._reached = epoch
        self._settled = settled(self._training, row.train_loss)

    def _at_target(self, row: Measures) -> bool:
        loss, accuracy = self._training.target, self._training.target_accuracy
        if loss is None or row.test_loss > loss:
            return False
        return accuracy is None or row.test_accuracy >= accuracy

    def done(self, last: bool) -> bool:
        """Whether the training is over: stopped, diverged, settled, or at its last epoch."""
        stopped = self._training.stop_at_target and self._reached is not None
        diverged = self._diverged is not None
        self._settled = self._settled and not stopped and not diverged
        self._finished = self._finished or last or stopped or diverged or self._settled
        return self._finished

    def history(self, W_O: Tensor) -> GatedHistory:
        """All of it, with what is known of epochs that were not run."""
        self.reported = True
        if self._settled:
            later = [e for e in measured_epochs(self._training.epochs) if e > self._epochs[-1]]
            self._epochs += later
            self._rows += [self._rows[-1]] * len(later)
        status: Status = "censored"
        if self._diverged is not None:
            status = "diverged"
        elif self._reached is not None:
            status = "reached"
        rows = self._rows
        return GatedHistory(
            status=status,
            epochs_to_target=self._reached,
            diverged_by=self._diverged,
            epochs=np.array(self._epochs),
            train_loss=np.array([row.train_loss for row in rows]),
            test_loss=np.array([row.test_loss for row in rows]),
            test_accuracy=np.array([row.test_accuracy for row in rows]),
            test_ranking=np.array([row.test_ranking for row in rows]),
            gating=np.stack([row.gating for row in rows]),
            W_O=W_O.cpu().numpy(),
            progress=np.array([row.progress for row in rows]),
        )
