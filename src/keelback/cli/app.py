"""The Typer application, and the one place where errors become exit codes."""

import functools
import gc
import importlib
import json
import logging
import os
import pkgutil
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
import typer.core

import keelback
from keelback.cli.interrupts import INTERRUPTED, TERMINATED, ending_at_once
from keelback.cli.options import require_numbers
from keelback.cli.plugins import Plugins, load_plugins, taking_plugins, telling_plugins
from keelback.cli.terminal import clean_streams, open_closed_streams
from keelback.cli.usage import require_words, usage_message
from keelback.commit import require_clean
from keelback.errors import InputError, JobError, in_one_line, printable

_SECONDS_TO_END = 10.0
_SECONDS_TO_LAND = 0.1

SECTIONS = {
    "Train and score": ("train", "evaluate", "dynamics", "byte-lm"),
    "Measure and repair": ("audit", "repair"),
    "Bound and certify": ("bound", "certify", "compress"),
    "Experiments and sweeps": ("list", "reproduce", "watch", "runs", "report"),
    "Benchmarks and installation": ("bench", "doctor"),
}
"""The commands by what one wants of them, in the order in which `--help` shows them."""

ANYWHERE = ("--debug", "--quiet", "--allow-dirty")
"""Flags of the program that may stand before or after the command."""

_WIDEST_HELP = 160
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


class Grouped(typer.core.TyperGroup):
    """Commands whose help shows them in `SECTIONS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections, each with its commands and what they do."""
        listed = [name for names in SECTIONS.values() for name in names]
        others = tuple(name for name in self.list_commands(ctx) if name not in listed)
        widest = max(len(name) for name in self.list_commands(ctx))
        for title, names in {**SECTIONS, "Others": others}.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [
                (name.ljust(widest), command.get_short_help_str(formatter.width - widest - 6))
                for name, command in found
                if command is not None and not command.hidden
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _import_heavy() -> None:
    if _HEAVY not in sys.modules:
        _require_folder()
        with heavy_imports(), ending_at_once():
            importlib.import_module(_HEAVY)


def _require_folder() -> None:
    """Refuse to run where libraries end the process, since the working folder was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError(
            "the working folder does not exist any more; change to one that does"
        ) from None


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
                require_numbers(named)
                _require_clean_results(named)
                if not light:
                    _import_heavy()
                return command(*given, **named)

            register(run)
            return function

        return registered


app = Commands(
    name="keelback",
    cls=Grouped,
    help="Train, measure, bound and repair selective state-space models.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": _WIDEST_HELP,
    },
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"keelback {keelback.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_tell_version, is_eager=True, help="Print the version."
    ),
    quiet: bool = typer.Option(False, "--quiet", help="Show no progress."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    allow_dirty: bool = typer.Option(
        False,
        "--allow-dirty",
        help="Write committed results (under results/) from code that differs from its commit.",
    ),
    plugin: Plugins = None,
) -> None:
    """Options of the program; the last four may also stand after the command."""
    from keelback.cli import progress

    global _allow_dirty
    progress.shown, _allow_dirty = not quiet, allow_dirty
    _tell_notes(quiet)
    if plugin:
        _import_heavy()
        with telling_plugins():
            load_plugins(plugin)


def _tell_notes(quiet: bool) -> None:
    """Show on stderr what the library notes: that it resumes, that a file was damaged."""
    log = logging.getLogger("keelback")
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    if not log.handlers:
        log.addHandler(_Notes())


class _Notes(logging.Handler):
    """Each note on a line of stderr as it is now, which tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the note without what could steer a terminal."""
        print(f"note: {printable(record.getMessage())}", file=sys.stderr, flush=True)


_typed: list[str] = []
"""The words of the command line, as they were given."""

_allow_dirty = False
_WRITES = ("out", "report_to", "export_to", "certificate")
"""The parameters of commands that say where to write."""


def _require_clean_results(options: Mapping[str, Any]) -> None:
    """Refuse, before the work, to write committed results from code that is in no commit."""
    targets = [options[name] for name in _WRITES if isinstance(options.get(name), Path)]
    stdout = Path("/proc/self/fd/1")
    if stdout.exists():
        targets.append(stdout.resolve())
    for target in targets:
        require_clean(target, allow_dirty=_allow_dirty)


def print_json(result: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a result on stdout as JSON; nothing else is written there."""
    print(json.dumps(result, indent=2, allow_nan=False))


def print_measured(result: Mapping[str, Any]) -> None:
    """Print what a benchmark measured as JSON, with what made it."""
    print_json({"provenance": provenance_of_command(), **result})


def command_line() -> str:
    """The command that is running, as a shell would take it."""
    return shlex.join(["keelback", *_typed])


def provenance_of_command() -> dict[str, Any]:
    """What made this command's result: the command itself, code, libraries, device and date."""
    from keelback.sweeps.provenance import provenance

    return dict(provenance(command=command_line()))


def load_commands() -> None:
    """Import every command module; each registers itself with `app`."""
    package = importlib.import_module("keelback.cli")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"keelback.cli.{module.name}")


class _Terminated(BaseException):
    """SIGTERM came."""


def _end_on_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: workers are stopped, what is half written goes.

    Compiled code may be running, which Python interrupts only at its end: the process goes anyhow
    some seconds later. Commands that keep a training under way listen for the signal themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return

    def end(number: int, frame: Any) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(read, 1)[0] != signal.SIGTERM:
            continue
        if signal.getsignal(signal.SIGTERM) is end:
            time.sleep(_SECONDS_TO_END)
            os._exit(TERMINATED)

    threading.Thread(target=watch, daemon=True).start()


def _is_want_of_memory(error: Exception) -> bool:
    """Whether this is how Python, NumPy or PyTorch say that an allocation failed."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("allocate memory", "out of memory"))
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "an allocation failed"


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flags of `ANYWHERE` before the command, wherever they stood."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in ANYWHERE]
    return [*flags, *(word for word in arguments[:end] if word not in ANYWHERE), *arguments[end:]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 when the job failed, 2 on wrong input."""
    _typed[:] = sys.argv[1:] if arguments is None else arguments
    arguments = _flags_first(_typed or ["--help"])
    open_closed_streams()
    with ending_at_once():
        load_commands()
    _end_on_sigterm()
    missed: list[int] = []
    try:
        require_words(arguments)
        with clean_streams(), _interrupts_that_land(missed):
            code = app(args=arguments, prog_name="keelback", standalone_mode=False)
        sys.stdout.flush()
    except _Terminated:
        _exit_terminated()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            raise SystemExit(0) from None
        if "--debug" in arguments:
            raise
        if missed:  # A compiler lacks what it was making, and says that and not why.
            if missed[-1] == signal.SIGTERM:
                _exit_terminated()
            print("interrupted; what was finished is kept", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        message, code = _explained(error, arguments)
        print("error: " + printable(" ".join(message.split())), file=sys.stderr)
        _give_up_stdout()
        raise SystemExit(code) from None
    if code == INTERRUPTED:  # Typer turns a KeyboardInterrupt into this code and says nothing
        print("interrupted; what was finished is kept", file=sys.stderr)
    raise SystemExit(code if isinstance(code, int) else 0)


def _exit_terminated() -> NoReturn:
    print("terminated; what was finished is kept", file=sys.stderr)
    raise SystemExit(TERMINATED) from None


@contextmanager
def _interrupts_that_land(missed: list[int]) -> Iterator[None]:
    """Within the block, an interrupt that comes where it cannot be raised comes again.

    Python prints what is raised inside a callback of compiled code (Numba's compiler has some), a
    `__del__` or the garbage collector, and goes on as if nothing had been. `missed` gets the
    signal's number.
    """
    before = sys.unraisablehook

    def again(unraisable: "sys.UnraisableHookArgs") -> None:
        numbers = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}
        number = numbers.get(unraisable.exc_type)
        if number is None:
            before(unraisable)
            return
        missed.append(number)
        started = False
        while not started:  # On a busy machine it can come again while this function still runs.
            with suppress(*numbers):
                timer = threading.Timer(_SECONDS_TO_LAND, os.kill, (os.getpid(), number))
                timer.daemon = True
                timer.start()
                started = True

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in missed:  # What comes again now would find the command over.
            signal.signal(number, signal.SIG_IGN)


def _explained(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, _UsageError):
        return usage_message(error, arguments), 2
    if isinstance(error, (InputError, JobError)):
        return str(error), 1 if isinstance(error, JobError) else 2
    if _is_want_of_memory(error):
        return f"not enough memory: {_first_line(error)}", 1
    if isinstance(error, BrokenPipeError):
        return "what read the output is gone", 1
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; what was finished is kept", 1
    return f"unexpected {in_one_line(error)}; --debug shows where", 1


def _give_up_stdout() -> None:
    """Lose what stdout cannot take, on which Python would stumble again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
