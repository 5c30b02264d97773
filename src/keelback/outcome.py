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
    A `reference`, such as the slope of a theorem, is drawn in grey.

    Examples:
        >>> Line(x=[25, 50], y=[0.91, None], label="test").label
        'test'
    """

    x: Sequence[float]
    y: Sequence[float | None]
    label: str = ""
    lower: Sequence[float | None] | None = None
    upper: Sequence[float | None] | None = None
    style: str = "solid"
    family: str | None = None
    reference: bool = False


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: `len(edges) == len(counts) + 1`.

    Examples:
        >>> Histogram(edges=[0, 1, 2], counts=[3, 5]).counts
        [3, 5]
    """

    edges: Sequence[float]
    counts: Sequence[float]
    label: str = ""


@dataclass(frozen=True)
class Bars:
    """A bar at each `x`, whiskers from `lower` to `upper`; several stand side by side.

    Examples:
        >>> Bars(x=["rnn", "mamba"], y=[0.8, 0.9], lower=[0.7, 0.85], upper=[0.9, 0.95]).y
        [0.8, 0.9]
    """

    x: Sequence[float | str]
    y: Sequence[float | None]
    label: str = ""
    lower: Sequence[float | None] | None = None
    upper: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Mark:
    """A thin labelled line across the panel at one value of `axis` ("x" or "y").

    Examples:
        >>> Mark(at=0.5, label="chance", axis="y").at
        0.5
    """

    at: float
    label: str = ""
    axis: str = "x"


@dataclass(frozen=True)
class Heatmap:
    """`values[i][j]` at `y[i]`, `x[j]`; `None` where there is no value.

    Named rows, and any rows with `from_top`, run from the top down as attention maps do; numbered
    rows otherwise run upwards. A range across zero is coloured symmetrically about zero.

    Examples:
        >>> Heatmap(x=[1, 2], y=["a"], values=[[0.1, None]]).values[0][0]
        0.1
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
    """One pair of axes: any number of lines, histograms and bars, or one heatmap.

    Examples:
        >>> line = Line(x=[25, 50], y=[0.91, 0.92])
        >>> Panel("length", "test accuracy", lines=[line]).x_label
        'length'
    """

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
    """Panels side by side. `name` becomes the file name of the PNG and the PDF.

    Examples:
        >>> panel = Panel("length", "test accuracy", lines=[Line(x=[25, 50], y=[0.91, 0.92])])
        >>> Figure("length", "Accuracy against length", [panel]).title
        'Accuracy against length'
    """

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column: the key in each row, the heading, and a `format` specification.

    Examples:
        >>> Column("test", "test accuracy", ".3f").label
        'test accuracy'
    """

    key: str
    label: str
    spec: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns. `name` becomes the file name of the Parquet and CSV copies.

    Examples:
        >>> columns = [Column("test", "test accuracy", ".2f")]
        >>> Table("scores", "Scores", columns, rows=[{"test": 0.91}]).rows
        [{'test': 0.91}]
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Scalar]]
    caption: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, what the measurement says of it, and the numbers that say so.

    Examples:
        >>> Claim("The gap grows.", "fails", "slope -0.01 to 0.02", holds=False).verdict
        'fails'
    """

    statement: str
    verdict: str
    evidence: str
    holds: bool | None = None
    """True where the measurement supports the statement, False where it does not, None between."""


@dataclass(frozen=True)
class Outcome:
    """Everything that one experiment found, in reading order: claims, figures, tables, notes.

    Examples:
        >>> Outcome("width-full", "Width", "3 trainings.", notes=["None diverged."]).notes
        ['None diverged.']
    """

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
    claims_title: str = "Claims"
    """What the claims are: of a paper, or the findings of an audit."""
