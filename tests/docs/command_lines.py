"""What the real command line reads in a line of words, without running it."""

from typing import Any

import typer

from keelback.cli.app import app, load_commands


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command's own name and its options, as the real command line reads them."""
    load_commands()
    command: Any = typer.main.get_command(app)
    name, context = "keelback", None
    while True:
        context = command.make_context(name, words, parent=context)
        if not hasattr(command, "commands"):
            return name, context.params
        left = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, left)
