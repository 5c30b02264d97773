"""The constants that describe a class of selective SSMs, checked once and then trusted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from keelback.bounds._numbers import Real, ball, log, total
from keelback.bounds._series import log_softplus
from keelback.errors import InputError
from keelback.files import parsed_json

_LARGEST_REAL = 1e60
_LARGEST_COUNT = 10**18
_COUNTS = ("T", "m", "d", "N")
_SIGNED = ("s_A", "p_lo", "p_hi")
_NORM_PAIRS = (("B_B", "M_B"), ("B_C", "M_C"), ("B_q", "M_q"), ("B_w", "M_w"))


class ClassFormulas(ABC):
    """What follows from the constants of a class, be they doubles or balls.

    `omega` is the largest imaginary part of an entry of A; `dense` says that A is no diagonal.
    """

    omega: Real = 0.0
    dense: bool = False
    B_u: Real
    s_A: Real  # noqa: N815
    B_A: Real
    B_B: Real
    M_B: Real
    B_C: Real
    M_C: Real
    B_q: Real
    M_q: Real
    B_w: Real
    M_w: Real
    p_lo: Real
    p_hi: Real
    T: Real
    m: Real
    d: Real
    N: Real

    @property
    def log_largest_step(self) -> Real:
        """Logarithm of D = softplus(p_hi + B_q B_u), the largest step delta_t."""
        return log_softplus(self.p_hi + self.B_q * self.B_u)

    @property
    def log_smallest_step(self) -> Real:
        """Logarithm of delta_min = softplus(p_lo - B_q B_u), the smallest step."""
        return log_softplus(self.p_lo - self.B_q * self.B_u)

    @property
    def log_gain(self) -> Real:
        """log(B_w B_B B_C B_u^3): the output's bound per unit of the sum of weighted steps."""
        return total(log(norm) for norm in (self.B_w, self.B_B, self.B_C)) + 3 * log(self.B_u)

    @abstractmethod
    def with_changes(self: "Formulas", **changes: Real) -> "Formulas":
        """The same class with some constants replaced."""


Formulas = TypeVar("Formulas", bound=ClassFormulas)


class BallConstants(ClassFormulas, SimpleNamespace):
    """The constants of a class as balls, under the same names."""

    def with_changes(self, **changes: Real) -> "BallConstants":
        """The same with some constants replaced."""
        return BallConstants(**{**vars(self), **changes})


@dataclass(frozen=True)
class ClassConstants(ClassFormulas):
    """A class of selective SSMs with scalar output, by the constants that bound its members.

    The model is that of arXiv 2502.01473, Section 2: tokens u_t of dimension `d`, steps
    delta_t = softplus(p + q . u_t), d channels of `N` diagonal states, output z = w . y_T.

    Attributes:
        B_u: largest Euclidean norm of a token.
        s_A: upper bound on every entry of A (the spectral abscissa); negative means stable.
        B_A: every entry of A is at least -B_A.
        B_B: spectral norm of W_B.
        M_B: entrywise l1 norm of W_B.
        B_C: spectral norm of W_C.
        M_C: entrywise l1 norm of W_C.
        B_q: Euclidean norm of q.
        M_q: l1 norm of q.
        B_w: Euclidean norm of w (of each row of W for several classes).
        M_w: l1 norm of w (of each row).
        p_lo: smallest p.
        p_hi: largest p.
        T: sequence length.
        m: number of training samples.
        d: token dimension, which is the number of channels.
        N: states per channel.

    Raises:
        InputError: a constant is not a finite number, is negative where it is a norm, is below 1
            where it is a count; an M is smaller than its B; p_lo > p_hi; or -B_A > s_A, which
            leaves A no value.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> c.T, c.s_A
        (1000, -0.1)
    """

    B_u: float
    s_A: float  # noqa: N815
    B_A: float
    B_B: float
    M_B: float
    B_C: float
    M_C: float
    B_q: float
    M_q: float
    B_w: float
    M_w: float
    p_lo: float
    p_hi: float
    T: int
    m: int
    d: int
    N: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _checked(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for euclidean, absolute in _NORM_PAIRS:
            if getattr(self, absolute) < getattr(self, euclidean):
                raise InputError(
                    f"{absolute} = {getattr(self, absolute):g} is smaller than "
                    f"{euclidean} = {getattr(self, euclidean):g}; an l1 norm is never below the "
                    "l2 (spectral) norm"
                )
        if self.p_lo > self.p_hi:
            raise InputError(f"p_lo = {self.p_lo:g} is larger than p_hi = {self.p_hi:g}")
        if self.s_A < -self.B_A:
            raise InputError(
                f"B_A = {self.B_A:g} is smaller than -s_A = {-self.s_A:g}; the entries of A lie "
                "between -B_A and s_A, so B_A must be at least -s_A"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ClassConstants":
        """Constants from a mapping with exactly the attribute names as keys.

        Raises:
            InputError: names every missing and every unknown key, or the ill-valued one.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise InputError(
                f"class constants missing: {', '.join(missing)}; needed are {', '.join(names)}"
            )
        unknown = [str(key) for key in values if key not in names]
        if unknown:
            raise InputError(
                f"unknown class constants: {', '.join(unknown)}; known are {', '.join(names)}"
            )
        return cls(**{name: _checked(name, values[name]) for name in names})

    @classmethod
    def from_json(cls, path: str | Path) -> "ClassConstants":
        """Constants from a JSON file that holds one object with the attribute names as keys.

        Raises:
            InputError: the file cannot be read, is not JSON, is not an object, or holds wrong
                constants; the message names the file.
        """
        path = Path(path)
        try:
            values = parsed_json(path.read_text(encoding="utf-8"), once=True)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a UTF-8 text file") from None
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"{path} must hold one JSON object of constants by name")
        try:
            return cls.from_mapping(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def as_dict(self) -> dict[str, float | int]:
        """The constants by name, ready for JSON."""
        return asdict(self)

    def with_changes(self, **changes: Any) -> "ClassConstants":
        """The same with some constants replaced."""
        return replace(self, **changes)

    def balls(self) -> BallConstants:
        """The constants as exact balls, for evaluation with rounding accounted for.

        Raises:
            InputError: python-flint is not installed.
        """
        return BallConstants(**{name: ball(value) for name, value in vars(self).items()})


def _checked(name: str, value: Any) -> Any:
    return _count(name, value) if name in _COUNTS else real_constant(name, value)


def real_constant(name: str, value: Any) -> float:
    """A finite number, and no negative one where it bounds a norm.

    Raises:
        InputError: it is another.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, not {value!r}")
    if not abs(value) <= _LARGEST_REAL:
        raise InputError(f"{name} = {value!r:.40} must be finite and at most {_LARGEST_REAL:g}")
    if name not in _SIGNED and value < 0:
        raise InputError(f"{name} = {value:g} is negative; it bounds a norm, so it must be >= 0")
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    if not 1 <= value <= _LARGEST_COUNT or value != int(value):
        raise InputError(
            f"{name} = {value!r:.40} must be a whole number from 1 to {_LARGEST_COUNT:.0e}"
        )
    return int(value)
