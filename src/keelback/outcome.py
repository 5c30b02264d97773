"""What an experiment says: claims, tables and figures, as data that the report room draws.

Every string is plain Unicode text: no markup, no LaTeX. `<`, `$` and `_` show as themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Scalar = float | int | str | bool | None


@dataclass(frozen=True)
class Line:
    """One line of a chart, with an optional band and an optional marker at each point.

    `x` and `y` have the same length; a `None` in `y` breaks the line. `lower` and `upper` bound the
    band. `style` is "solid", "dashed", "dotted" or "points"; lines of one `family` share a colour.
    """

    x: Sequence[float]
    y: Sequence[float | None]
    label: str = ""
    lower: Sequence[float | None] | None = None
    upper: Sequence[float | None] | None = None
    style: str = "solid"
    family: str | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: `len(edges) == len(counts) + 1`."""

    edges: Sequence[float]
    counts: Sequence[float]
    label: str = ""


@dataclass(frozen=True)
class Bars:
    """A bar at each `x`, whiskers from `lower` to `upper`; several stand side by side."""

    x: Sequence[float | str]
    y: Sequence[float | None]
    label: str = ""
    lower: Sequence[float | None] | None = None
    upper: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Mark:
    """A thin labelled line across the panel at one value of `axis` ("x" or "y")."""

    at: float
    label: str = ""
    axis: str = "x"


@dataclass(frozen=True)
class Heatmap:
    """`values[i][j]` at `y[i]`, `x[j]`; `None` where there is no value.

    Named rows, and any rows with `from_top`, run from the top down as attention maps do; numbered
    rows otherwise run upwards. A range across zero is coloured symmetrically about zero.
    """

    x: Sequence[float | str]
    y: Sequence[float | str]
    values: Sequence[Sequence[float | None]]
    label: str = ""
    lowest: float | None = None
    highest: float | None = None
    from_top: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes: any number of lines, histograms and bars, or one heatmap."""

    x_label: str
    y_label: str
    title: str = ""
    lines: Sequence[Line] = ()
    histograms: Sequence[Histogram] = ()
    heatmap: Heatmap | None = None
    log_x: bool = False
    log_y: bool = False
    zero_line: bool = False
    y_limits: tuple[float, float] | None = None
    bars: Sequence[Bars] = ()
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Figure:
    """Panels side by side. `name` becomes the file name of the PNG and the PDF."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column: the key in each row, the heading, and a `format` specification."""

    key: str
    label: str
    spec: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns. `name` becomes the file name of the Parquet and CSV copies."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Scalar]]
    caption: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, what the measurement says of it, and the numbers that say so."""

    statement: str
    verdict: str
    evidence: str
    holds: bool | None = None
    """True where the measurement supports the statement, False where it does not, None between."""


@dataclass(frozen=True)
class Outcome:
    """Everything that one experiment found, in reading order: claims, figures, tables, notes."""

    experiment: str
    title: str
    summary: str
    claims: Sequence[Claim] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    """What `--json` prints: stable keys, JSON types only."""
    verdict: str = ""
    """The answer in a sentence or two, shown above everything else."""
