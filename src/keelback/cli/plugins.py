"""The option `--plugin` of every command, and what becomes of the errors of plugins."""

import contextlib
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

PLUGIN = "plugin"
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="Python file that registers tasks, models, adapters or experiments; may be repeated; "
        "by default none; e.g. my_task.py.",
        metavar="FILE.py",
        show_default=False,
    ),
]


def taking_plugins(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the option `--plugin`, whose files are loaded before it runs."""

    @functools.wraps(command)
    def run(*given: Any, plugin: list[Path] | None = None, **named: Any) -> Any:
        with telling_plugins():
            load_plugins(plugin)
            return command(*given, **named)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        PLUGIN, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins
    )
    with_option = signature.replace(parameters=[*signature.parameters.values(), option])
    run.__signature__ = with_option  # type: ignore[attr-defined]
    run.__annotations__ = {**inspect.get_annotations(command, eval_str=True), PLUGIN: Plugins}
    return run


def load_plugins(files: list[Path] | None) -> None:
    """Load plugin files, in their order.

    Raises:
        InputError: one cannot be loaded.
    """
    for file in files or []:
        importlib.import_module("keelback.plugins").load_plugin(file)


@contextlib.contextmanager
def telling_plugins() -> Iterator[None]:
    """Within the block, what a plugin raises is its error, and what is wrong with one is a line."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if category.__name__ == "PluginWarning":
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *more, **named)

    warnings.showwarning = show
    try:
        yield
    except BaseException as error:
        blamed = importlib.import_module("keelback.plugins").blame(error)
        if blamed is None:
            raise
        raise blamed from error
    finally:
        warnings.showwarning = shown
