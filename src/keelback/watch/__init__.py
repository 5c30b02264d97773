"""The live view: a sweep or a training that is under way, on the terminal and as a local page.

A reader takes a `Snapshot` of a folder, as often as it is asked; the folder is only read, and
nothing in it is run or trusted.
"""

from keelback.watch._page import render_page
from keelback.watch._reader import Reader, reader_of
from keelback.watch._server import PageServer
from keelback.watch._snapshot import Alarm, Group, Plan, RunView, Snapshot
from keelback.watch._terminal import render_terminal

__all__ = [
    "Alarm",
    "Group",
    "PageServer",
    "Plan",
    "Reader",
    "RunView",
    "Snapshot",
    "reader_of",
    "render_page",
    "render_terminal",
]
