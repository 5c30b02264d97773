"""The configuration of one training of the gated SSM."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from keelback.dynamics.gated import Mixing, class_readout
from keelback.dynamics.noise import GaussianNoise, Noise
from keelback.dynamics.patterns import Locality, Pattern
from keelback.errors import InputError
from keelback.memory import require_memory

Source = Literal["fixed", "paired", "fresh", "population"]
OptimizerName = Literal["gd", "momentum", "adam"]
ScheduleName = Literal["constant", "decaying", "stable"]
Symmetry = Literal["none", "readout", "model"]


@dataclass(frozen=True)
class GatedTraining:
    """One training of the gated SSM of arXiv 2602.12499, in full.

    Attributes:
        pattern: the task.
        noise: what is added to every token.
        samples: training sequences (with "fresh" data: sequences per step).
        source: "fixed" draws the training set once, "paired" too but with every sequence repeated
            under exchanged classes, "fresh" draws new sequences at every step, "population" takes
            the exact mean over all sequences (locality without noise; see `descend_population`).
        width: hidden units m.
        step_size: eta, for the gate and the read-out alike.
        gate_step_size: eta for w, where it differs.
        readout_step_size: eta for W_O, where it differs.
        optimizer: "gd" (plain gradient descent), "momentum" (heavy ball) or "adam".
        momentum: share of the last change that "momentum" keeps; also Adam's first decay.
        schedule: of the step sizes. "constant"; "decaying", which divides them by
            `1 + epoch / decay`; "stable", which divides them so that the measured sharpness does
            not exceed `stability` (see `sharpness`).
        decay: epochs after which a decaying step size is halved.
        stability: bound on step size times sharpness for "stable" steps.
        symmetry: "readout" keeps W_O unchanged under exchange of o_+ with o_- and of the two
            halves of the hidden units, which makes a_+ = -a_-; "model" keeps w so too, which makes
            F change its sign, exactly, when the classes are exchanged. See `Exchange`.
        epochs: gradient steps at most.
        seed: of the training data, the test data and the initial weights.
        test_samples: sequences that the test loss is measured on.
        target: test loss that counts as success; `None` for no target.
        target_accuracy: test accuracy that is asked for besides, at the same epoch.
        stop_at_target: leave the batch there, or train on to the last epoch.
        readout_scale: standard deviation of W_O's entries at the start.
        mixing: W_B and W_C, which stay as they start; see `mixing_matrices`.

    Raises:
        InputError: for a value outside its range, or options that exclude each other.

    Examples:
        >>> training = GatedTraining(MajorityVoting(0.4, 0.1), step_size=0.5, epochs=100)
        >>> training.plain  # as in the theorems: gradient descent, one constant step size
        True
    """

    pattern: Pattern
    noise: Noise = field(default_factory=lambda: GaussianNoise(0.02))
    samples: int = 400
    source: Source = "fixed"
    width: int = 50
    step_size: float = 0.5
    epochs: int = 1000
    seed: int = 0
    test_samples: int = 500
    target: float | None = 1e-3
    stop_at_target: bool = True
    readout_scale: float = 0.1
    mixing: Mixing = "identity"
    gate_step_size: float | None = None
    readout_step_size: float | None = None
    optimizer: OptimizerName = "gd"
    momentum: float = 0.9
    schedule: ScheduleName = "constant"
    decay: float = 1000.0
    stability: float = 0.2
    symmetry: Symmetry = "none"
    target_accuracy: float | None = None

    @property
    def eta_gate(self) -> float:
        """Step size of w."""
        return self.step_size if self.gate_step_size is None else self.gate_step_size

    @property
    def eta_out(self) -> float:
        """Step size of W_O."""
        return self.step_size if self.readout_step_size is None else self.readout_step_size

    @property
    def plain(self) -> bool:
        """Whether this is what the theorems are about: gradient descent, one constant step size."""
        one_step = self.schedule == "constant" and self.eta_gate == self.eta_out
        return self.optimizer == "gd" and one_step

    @property
    def noise_free(self) -> bool:
        """Whether every token is a feature itself, and W_B^T W_C the identity on them."""
        return self.noise.scale == 0 and self.mixing != "gaussian"

    def __post_init__(self) -> None:
        if self.pattern.classes != 2:
            raise InputError(
                f"gradient descent: the batched trainer takes two classes, not "
                f"{self.pattern.classes}"
            )
        dim = self.pattern.dim
        require_memory(4.0 * dim * (self.width + 3 * dim), "the weights of the gated model")
        class_readout(self.width)
        self._check_choices()
        self._check_numbers()
        self._check_data()
        if self.optimizer != "gd" and self.schedule == "stable":
            raise InputError(
                f"gradient descent: the largest stable step is that of plain gradient descent, "
                f"not of {self.optimizer}; take another schedule"
            )
        if self.source == "population" and self.optimizer != "gd":
            raise InputError(
                f"gradient descent: on the population there is plain gradient descent, not "
                f"{self.optimizer}"
            )

    def _check_choices(self) -> None:
        choices = (
            ("data are", self.source, Source),
            ("the optimizer is", self.optimizer, OptimizerName),
            ("the schedule is", self.schedule, ScheduleName),
            ("the symmetry is", self.symmetry, Symmetry),
        )
        for what, given, allowed in choices:
            *others, last = get_args(allowed)
            if given not in (*others, last):
                raise InputError(
                    f"gradient descent: {what} {', '.join(others)} or {last}, not {given!r}"
                )

    def _check_numbers(self) -> None:
        if self.epochs < 1:
            raise InputError(f"gradient descent: at least one epoch is needed, not {self.epochs}")
        for name, rate in (
            ("step size", self.step_size),
            ("gate's step size", self.eta_gate),
            ("read-out's step size", self.eta_out),
            ("decay", self.decay),
            ("stability", self.stability),
        ):
            if not 1e-38 <= rate <= 3.4e38:
                raise InputError(
                    f"gradient descent: the {name} is a number from 1e-38 to 3.4e38, not {rate}"
                )
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"gradient descent: the momentum lies from 0 up to, not including, 1, not "
                f"{self.momentum}"
            )
        if self.target is not None and not 0 < self.target < 1:
            raise InputError(
                f"gradient descent: the target test loss lies between 0 and 1, not {self.target}"
            )
        if self.target_accuracy is not None:
            if self.target is None:
                raise InputError("gradient descent: a target accuracy needs a target test loss")
            if not 0 < self.target_accuracy <= 1:
                raise InputError(
                    f"gradient descent: the target accuracy lies above 0 and is at most 1, not "
                    f"{self.target_accuracy}"
                )
        if not (isfinite(self.readout_scale) and self.readout_scale >= 0):
            raise InputError(
                f"gradient descent: the scale of W_O at the start is a finite number >= 0, not "
                f"{self.readout_scale}"
            )

    def _check_data(self) -> None:
        for name, count in (("samples", self.samples), ("test samples", self.test_samples)):
            if count < 2:
                raise InputError(f"gradient descent: {name} are at least 2, not {count}")
        if self.source == "paired" and self.samples % 2:
            raise InputError(
                f"gradient descent: paired data need an even number of samples, not {self.samples}"
            )
        if self.source == "population" and not (
            isinstance(self.pattern, Locality) and self.noise_free
        ):
            raise InputError(
                "gradient descent: the exact population is that of locality data without noise "
                "(noise 0, and W_B, W_C the identity or orthogonal)"
            )
