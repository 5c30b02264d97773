"""Reports on experiments and audits: figures (PNG, PDF), tables, and one self-contained HTML page.

Everything is drawn from `keelback.outcome.Outcome`. Drawing needs the `report` extra,
which is imported when something is drawn and not before.
"""

from keelback.report._matplotlib import save_figure
from keelback.report._page import Provenance, render_page
from keelback.report._report import write_report
from keelback.report._tables import save_tables, terminal_tables

__all__ = [
    "Provenance",
    "render_page",
    "save_figure",
    "save_tables",
    "terminal_tables",
    "write_report",
]
