"""Reports on experiments and audits: figures, tables, and one self-contained HTML page.

A figure is there as PNG, as PDF, and as JSON, from which it can be drawn again.

Everything is drawn from `keelback.outcome.Outcome`. Drawing needs the `report` extra,
which is imported when something is drawn and not before.
"""

from keelback.report._figure_data import load_figure, save_figure_data
from keelback.report._matplotlib import save_figure
from keelback.report._page import Provenance, render_page
from keelback.report._report import write_report
from keelback.report._tables import save_tables, terminal_tables

__all__ = [
    "Provenance",
    "load_figure",
    "render_page",
    "save_figure",
    "save_figure_data",
    "save_tables",
    "terminal_tables",
    "write_report",
]
