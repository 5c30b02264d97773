"""A report on disk: the page, the figures and the tables, side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

from keelback.errors import InputError
from keelback.outcome import Outcome
from keelback.report._files import (
    distinct_stems,
    require_report_extra,
    writable_directory,
    write_file,
)
from keelback.report._matplotlib import save_figure
from keelback.report._page import Provenance, render_page
from keelback.report._tables import save_tables


def write_report(
    outcomes: Sequence[Outcome], directory: str | os.PathLike[str], provenance: Provenance
) -> Path:
    """Write `report.html`, `figures/` and `tables/` into `directory`; return the page's path.

    With several outcomes each has a folder of its own, named after its experiment, inside
    `figures/` and `tables/`. Every file is written whole or not at all, the page last. Raises
    `InputError` where there is no outcome, the `report` extra is missing, or `directory` cannot be
    written to.
    """
    if not outcomes:
        raise InputError("a report needs at least one outcome; none was given")
    require_report_extra()
    page = render_page(outcomes, provenance)
    root = writable_directory(directory)
    folders = [""] if len(outcomes) == 1 else distinct_stems([o.experiment for o in outcomes])
    for folder, outcome in zip(folders, outcomes, strict=True):
        stems = distinct_stems([figure.name for figure in outcome.figures])
        for stem, figure in zip(stems, outcome.figures, strict=True):
            save_figure(figure, root / "figures" / folder, stem)
        if outcome.tables:
            save_tables(outcome, root / "tables" / folder)
    return write_file(root / "report.html", page.encode())
