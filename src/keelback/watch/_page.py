"""The page of a snapshot: drawn here, every text escaped; the browser only takes it over."""

from importlib import resources

from keelback.extras import require_extra
from keelback.progress import in_words
from keelback.report._page import _resource, _variables, templates_of
from keelback.report._tables import format_cell
from keelback.watch import _curves
from keelback.watch._snapshot import Snapshot

ROWS = 200
"""Runs that the page lists: those under way, and the newest of the others."""


def render_page(snapshot: Snapshot) -> str:
    """A snapshot as an HTML document, which asks its server for a script and a style sheet.

    Raises:
        InputError: Jinja2, of the `report` extra, is missing.

    Examples:
        >>> page = render_page(Snapshot("out", "sweep", "finished", "1 run finished"))
        >>> page.startswith("<!doctype html>")
        True
    """
    require_page()
    environment = templates_of("keelback.watch")
    environment.filters |= {"cell": format_cell, "time": in_words}
    return environment.get_template("watch.html").render(
        seen=snapshot,
        charts=_curves.charts_of(snapshot),
        frame=_curves,
        rows=ROWS,
        scores=list(dict.fromkeys(name for run in snapshot.runs for name in run.scores)),
        means=list(dict.fromkeys(name for group in snapshot.groups for name in group.scores)),
    )


def require_page() -> None:
    """Check that the page can be drawn.

    Raises:
        InputError: Jinja2 is missing.
    """
    require_extra("report", "the page of keelback watch", ("jinja2",))


def style_sheet() -> str:
    """The style of the reports' page, and what this page has besides."""
    return _variables() + _resource("page.css") + page_file("watch.css")


def page_file(name: str) -> str:
    """A file of the page that is no template."""
    return resources.files("keelback.watch").joinpath("page", name).read_text(encoding="utf-8")
