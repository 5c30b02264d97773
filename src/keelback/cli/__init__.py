"""The `keelback` command. Each module here holds one command (or one family of them)."""

from keelback.cli.app import main

__all__ = ["main"]
