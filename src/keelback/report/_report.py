"""A report on disk: the page, the figures and the tables, side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

from keelback.errors import InputError
from keelback.files import adding_to
from keelback.outcome import Outcome
from keelback.report._figure_data import save_figure_data
from keelback.report._files import (
    PAGE,
    distinct_stems,
    made_writable,
    require_own_page,
    require_report_extra,
    write_file,
)
from keelback.report._matplotlib import save_figure
from keelback.report._page import Provenance, render_page
from keelback.report._tables import save_tables


def write_report(
    outcomes: Sequence[Outcome], directory: str | os.PathLike[str], provenance: Provenance
) -> Path:
    """Write `report.html`, `figures/` and `tables/` into `directory`; return the page's path.

    A figure is there as PNG, PDF, and JSON, from which `load_figure` reads it to draw it again.
    With several outcomes each has a folder of its own, named after its experiment, inside
    `figures/` and `tables/`. All files are written or none. Raises `InputError` where there is no
    outcome, the `report` extra is missing, or `directory` cannot be written to or holds a
    `report.html` of something else.

    Examples:
        >>> from keelback.outcome import Outcome
        >>> outcome = Outcome("mine", "Mine", "One training.")
        >>> write_report([outcome], "report", {"command": "python mine.py"}).name
        'report.html'
    """
    if not outcomes:
        raise InputError("a report needs at least one outcome; none was given")
    require_report_extra()
    page = render_page(outcomes, provenance)
    require_own_page(directory)
    folders = [""] if len(outcomes) == 1 else distinct_stems([o.experiment for o in outcomes])
    with made_writable(directory) as root, adding_to(root) as partial:
        for folder, outcome in zip(folders, outcomes, strict=True):
            stems = distinct_stems([figure.name for figure in outcome.figures])
            for stem, figure in zip(stems, outcome.figures, strict=True):
                save_figure(figure, partial / "figures" / folder, stem)
                save_figure_data(figure, partial / "figures" / folder, stem)
            if outcome.tables:
                save_tables(outcome, partial / "tables" / folder)
        write_file(partial / PAGE, page.encode())
    return root / PAGE
