"""The `keelback` command. Each module here holds one command (or one family of them)."""

from collections.abc import Sequence

from keelback.cli.interrupts import ending_at_once


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 when the job failed, 2 on wrong input."""
    with ending_at_once():
        from keelback.cli import app
    app.main(arguments)


__all__ = ["main"]
