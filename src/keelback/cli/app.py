"""The Typer application, and the one place where errors become exit codes."""

import functools
import gc
import importlib
import json
import pkgutil
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from keelback.cli.plugins import Plugins, load_plugins, taking_plugins, telling_plugins
from keelback.errors import InputError, JobError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_HEAVY = "keelback.models"
# Typer carries its own copy of Click, or uses the installed one, depending on its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import PyTorch and the like without stopping to look for garbage, of which they make none.

    The collector would walk their million objects again and again, and once more at exit; it takes
    as long as the imports themselves. What they made is left out of later collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_heavy() -> None:
    if _HEAVY not in sys.modules:
        with heavy_imports():
            importlib.import_module(_HEAVY)


class Commands(typer.Typer):
    """Commands that each find PyTorch and Numba imported, put off until one really runs."""

    def command(  # type: ignore[override]
        self, *arguments: Any, light: bool = False, **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a command, as `typer.Typer.command` does; a `light` one needs no PyTorch."""
        register = super().command(*arguments, **options)

        def registered(function: Callable[..., Any]) -> Callable[..., Any]:
            command = taking_plugins(function)

            @functools.wraps(command)
            def run(*given: Any, **named: Any) -> Any:
                if not light:
                    _import_heavy()
                return command(*given, **named)

            register(run)
            return function

        return registered


app = Commands(
    name="keelback",
    help="Train, measure, bound and repair selective state-space models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    plugin: Plugins = None,
) -> None:
    """Options that stand before the command."""
    if plugin:
        _import_heavy()
        with telling_plugins():
            load_plugins(plugin)


def print_json(result: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a result on stdout as JSON; nothing else is written there."""
    print(json.dumps(result, indent=2, allow_nan=False))


def command_line() -> str:
    """The command that is running, as a shell would take it."""
    return shlex.join(["keelback", *sys.argv[1:]])


def provenance_of_command() -> dict[str, Any]:
    """What made this command's result: the command itself, code, libraries, device and date."""
    from keelback.sweeps.provenance import provenance

    return dict(provenance(command=command_line()))


def load_commands() -> None:
    """Import every command module; each registers itself with `app`."""
    package = importlib.import_module("keelback.cli")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"keelback.cli.{module.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 when the job failed, 2 on wrong input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    load_commands()
    try:
        code = app(args=arguments, prog_name="keelback", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (InputError, JobError, _UsageError) as error:
        if "--debug" in arguments:
            raise
        message = getattr(error, "format_message", error.__str__)()
        print("error: " + " ".join(message.split()), file=sys.stderr)
        raise SystemExit(1 if isinstance(error, JobError) else 2) from None
    except OSError as error:
        if "--debug" in arguments or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; what was finished is kept", file=sys.stderr)
        raise SystemExit(1) from None
    if code == INTERRUPTED:  # Typer turns a KeyboardInterrupt into this code and says nothing
        print("interrupted; what was finished is kept", file=sys.stderr)
    raise SystemExit(code if isinstance(code, int) else 0)
