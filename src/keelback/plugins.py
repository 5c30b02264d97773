"""Plugins: Python files that register parts, what their code is to blame for, and its output.

A plugin file is a module without a package. Its module is named by the digest of its source, so
that a worker process can load the same code under the same name, wherever the file lies there.
"""

import contextlib
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from keelback.errors import InputError, JobError, PluginError, describe, in_one_line
from keelback.registry import (
    Registry,
    definition,
    is_from_outside,
    package_of,
    place_in,
    shown,
)

T = TypeVar("T")

_PREFIX = "keelback_plugin_"
_loaded: dict[str, "PluginFile"] = {}
"""The plugin files of this process, by the name of their module."""


@dataclass(frozen=True)
class PluginFile:
    """A file that registers parts, with the source that it had when it was read.

    Examples:
        >>> from pathlib import Path
        >>> plugin = PluginFile(Path("brackets.py"), b"")
        >>> plugin.module
        'keelback_plugin_e3b0c44298fc1c14'
    """

    path: Path
    source: bytes

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the source, in hexadecimal digits."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def module(self) -> str:
        """The name of the module that the file becomes."""
        return _PREFIX + self.digest[:16]

    def parts(self, registry: Registry[T]) -> dict[str, T]:
        """What the file has registered of one kind."""
        found = registry.registered().items()
        return {name: part for name, part in found if definition(part).__module__ == self.module}


def load_plugin(file: str | Path) -> PluginFile:
    """Run a Python file that registers tasks, models, adapters or experiments.

    A file whose content was loaded before is not run again.

    Raises:
        InputError: there is no such file, or it cannot be read.
        PluginError: it fails, or registers nothing; the message names file and line.

    Examples:
        >>> from pathlib import Path
        >>> from keelback import get_task
        >>> code = "from keelback import register_task; from keelback.data import Majority"
        >>> code += "\\n@register_task\\nclass Jury(Majority): name = 'jury'"
        >>> _ = Path("jury.py").write_text(code)
        >>> plugin = load_plugin("jury.py")
        >>> get_task("jury", seq_len=20).name
        'jury'
    """
    plugin = _read(file, "plugin")
    if plugin.module in _loaded:
        return _loaded[plugin.module]
    before = _registered()
    load_source(plugin)
    if not _registered().keys() - before.keys():
        _forget(plugin)
        raise PluginError(
            f"{file} registers nothing: put @register_task, @register_model, @register_adapter or "
            "@register_experiment before the class"
        )
    return plugin


def _registered() -> dict[int, object]:
    """Every part by its identity, kept alive: an identity can be given again to a new part."""
    parts = (part for registry in Registry.every for part in registry.registered().values())
    return {id(part): part for part in parts}


def _read(file: str | Path, word: str) -> PluginFile:
    path = Path(file).expanduser().absolute()
    if path.exists() and not path.is_file():
        raise InputError(f"the {word} file {file} is not a file")
    try:
        return PluginFile(path, path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no {word} file {file}") from None
    except OSError as error:
        raise InputError(f"the {word} file {file} cannot be read: {error.strerror}") from None


def load_source(plugin: PluginFile) -> PluginFile:
    """`load_plugin` of a file that was read, here or on another machine.

    Examples:
        >>> from pathlib import Path
        >>> code = b"from keelback import register_task; from keelback.data import Majority"
        >>> code += b"\\n@register_task\\nclass Poll(Majority): name = 'poll'"
        >>> load_source(PluginFile(Path("poll.py"), code)).path.name
        'poll.py'
    """
    if plugin.module in _loaded:
        return _loaded[plugin.module]
    for older in [known for known in _loaded.values() if known.path == plugin.path]:
        _forget(older)
    _loaded[plugin.module] = plugin
    try:
        _run(plugin)
    except BaseException:
        _forget(plugin)
        raise
    return plugin


def _run(plugin: PluginFile) -> None:
    module = module_from_spec(ModuleSpec(plugin.module, None, origin=str(plugin.path)))
    module.__file__ = str(plugin.path)
    sys.modules[plugin.module] = module
    try:
        code = compile(plugin.source, str(plugin.path), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(sys.stderr):
            exec(code, vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = place_in(error.__traceback__, lambda name: name == plugin.module)
        if isinstance(error, SyntaxError) and error.filename == str(plugin.path):
            place = f"{shown(plugin.path)}:{error.lineno}"
        raise PluginError(
            f"{shown(plugin.path)} cannot be loaded: {_said(error)}{f' ({place})' if place else ''}"
        ) from error


def _forget(plugin: PluginFile) -> None:
    _loaded.pop(plugin.module, None)
    sys.modules.pop(plugin.module, None)
    for registry in Registry.every:
        registry.discard(lambda part: definition(part).__module__ == plugin.module)


def loaded_plugins() -> list[PluginFile]:
    """The plugin files that this process has loaded.

    Examples:
        >>> from pathlib import Path
        >>> code = "from keelback import register_task; from keelback.data import Majority"
        >>> code += "\\n@register_task\\nclass Votes(Majority): name = 'votes'"
        >>> _ = Path("votes.py").write_text(code)
        >>> load_plugin("votes.py") in loaded_plugins()
        True
    """
    return list(_loaded.values())


def only_part(registry: Registry[T], file: str | Path) -> str:
    """The name of the one part of a kind that a file registers.

    Raises:
        InputError: as `load_plugin`; or it registers none or several.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.data import TASKS
        >>> code = "from keelback import register_task; from keelback.data import Majority"
        >>> code += "\\n@register_task\\nclass Ballot(Majority): name = 'ballot'"
        >>> _ = Path("ballot.py").write_text(code)
        >>> only_part(TASKS, "ballot.py")
        'ballot'
    """
    word = registry.word
    names = sorted(load_source(_read(file, word)).parts(registry))
    if len(names) != 1:
        several = f"; load it with --plugin {file} and name one of {', '.join(names)}"
        raise InputError(
            f"{file} registers {len(names)} {word}s with @register_{word}; it should register one"
            f"{several if names else ''}"
        )
    return names[0]


def registered_outside(parts: Iterable[object]) -> list[tuple[str, object]]:
    """Of these parts, those that do not come with keelback, each with the word of its registry.

    Examples:
        >>> from keelback.data import Majority
        >>> registered_outside([Majority])
        []
    """
    outside = [part for part in dict.fromkeys(parts) if is_from_outside(part)]
    return [
        (registry.word, part)
        for part in outside
        for registry in Registry.every
        if any(part is known for known in registry.registered().values())
    ]


def files_of(parts: Mapping[str, object]) -> dict[str, PluginFile]:
    """Of the parts that come from plugin files, the file.

    Examples:
        >>> from keelback.data import Majority
        >>> files_of({"task": Majority})  # keelback's own: no file
        {}
    """
    modules = {name: definition(part).__module__ for name, part in parts.items()}
    return {name: _loaded[module] for name, module in modules.items() if module in _loaded}


def digests(parts: Mapping[str, object]) -> dict[str, str]:
    """Of the parts that come from plugin files, the digest of the file.

    Examples:
        >>> from keelback.data import Majority
        >>> digests({"task": Majority})
        {}
    """
    return {name: plugin.digest for name, plugin in files_of(parts).items()}


def origins(parts: Mapping[str, object]) -> dict[str, str]:
    """Of the parts that do not come with keelback, the file, or the package with its version.

    Examples:
        >>> from keelback.data import Majority
        >>> origins({"task": Majority})
        {}
    """
    return {name: _origin(part) for name, part in parts.items() if is_from_outside(part)}


def _origin(part: object) -> str:
    module = definition(part).__module__
    if module in _loaded:
        return str(_loaded[module].path)
    return _package_with_version(package_of(module)) or f"module {module}"


@functools.cache
def _package_with_version(module: str) -> str | None:
    """The installed package of a top-level module; finding it reads the records of all packages."""
    for package in packages_distributions().get(module, []):
        with contextlib.suppress(PackageNotFoundError):
            return f"{package} {version(package)}"
    return None


def blame(error: BaseException) -> PluginError | None:
    """The error as one of the plugin in whose code it arose; None where it arose in no plugin.

    Plugins are what keelback itself loaded: files, and packages by their entry points. A `JobError`
    and a request to stop are no faults of a plugin, whoever raises them.

    Examples:
        >>> blame(ValueError("raised by no plugin")) is None
        True
    """
    if isinstance(error, PluginError | JobError | KeyboardInterrupt):
        return None
    place = place_in(
        error.__traceback__,
        lambda module: module in _loaded or package_of(module) in Registry.imported,
    )
    return None if place is None else PluginError(f"{place}: {_said(error)}")


def _said(error: BaseException) -> str:
    from pydantic import ValidationError

    return describe(error) if isinstance(error, ValidationError) else in_one_line(error)


class Check(Protocol):
    """Looks at what a part's method gave, called with what the method was called with.

    Examples:
        >>> def positive(part, result):
        ...     return max(result, 0)
        >>> class Part:
        ...     def size(self):
        ...         return -1
        >>> check_output(Part, "size", positive)
        >>> Part().size()
        0
    """

    def __call__(self, part: Any, result: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result as it may go on. Raises `InputError` where it is wrong."""


def check_output(made: type, method: str, check: Check) -> None:
    """Let everything that a method or property of a class gives go through `check` from now on.

    What is wrong is told with the file and line of the method, where it is not keelback's own. What
    the method prints goes to stderr. An attribute that is a plain value stays as it is.

    Examples:
        >>> from keelback.errors import InputError
        >>> class Part:
        ...     def size(self):
        ...         return -1
        >>> def positive(part, result):
        ...     if result < 0:
        ...         raise InputError(f"size gave {result}; it should be 0 or more")
        ...     return result
        >>> check_output(Part, "size", positive)
        >>> try:
        ...     Part().size()
        ... except InputError as error:
        ...     print(str(error).split(": ")[-1])
        size gave -1; it should be 0 or more
    """
    found = inspect.getattr_static(made, method, None)
    function = getattr(found, "fget", None) or getattr(found, "func", None) or found
    is_method = callable(function) or isinstance(found, classmethod)
    if not is_method or hasattr(function, _CHECKED) or getattr(found, _ABSTRACT, False):
        return
    if isinstance(found, property | functools.cached_property):
        setattr(made, method, property(_checked(made, found, function, check)))
    else:
        setattr(made, method, _checked(made, found, function, check))


def require_methods(part: object, methods: Iterable[str]) -> None:
    """Check that methods whose output is checked were not replaced on the object itself.

    Raises:
        InputError: one was.

    Examples:
        >>> class Part:
        ...     def split(self):
        ...         return []
        >>> require_methods(Part(), ["split"])  # it stands in the class: nothing to say
    """
    for name in vars(part).keys() & set(methods):
        raise InputError(
            f"{name} of {type(part).__qualname__} is set on the object; define it in the class"
        )


_CHECKED, _ABSTRACT = "__keelback_checked__", "__isabstractmethod__"


def _checked(
    made: type, found: Any, function: Callable[..., Any], check: Check
) -> Callable[..., Any]:
    """`found` is what stands in the class: the function, or a descriptor around it."""

    @functools.wraps(function)
    def call(part: Any, *args: Any, **kwargs: Any) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            result = bound_to(found, part, *args, **kwargs)
        try:
            return check(part, result, *args, **kwargs)
        except InputError as error:
            raise located(error, made, function) from None

    setattr(call, _CHECKED, True)
    return call


def bound_to(found: Any, part: object, *args: Any, **kwargs: Any) -> Any:
    """What an attribute of a class gives for one of its objects: a value, or a method's result.

    Examples:
        >>> class Part:
        ...     def double(self, x):
        ...         return 2 * x
        >>> bound_to(Part.__dict__["double"], Part(), 21)
        42
    """
    bound = found.__get__(part, type(part)) if hasattr(type(found), "__get__") else found
    is_value = isinstance(found, property | functools.cached_property)
    return bound if is_value else bound(*args, **kwargs)


def located(error: InputError, made: type, function: Callable[..., Any]) -> InputError:
    """What is wrong with a function's output, with the file and line of the function.

    The file of the class alone, where the function is keelback's; the error as it is, where both
    are.

    Examples:
        >>> from keelback.data import Majority
        >>> from keelback.errors import InputError
        >>> error = InputError("labels must be 0 or 1")
        >>> located(error, Majority, Majority.split) is error  # keelback's own class
        True
    """
    if isinstance(error, PluginError) or not is_from_outside(made):
        return error
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and package_of(function.__module__) != package_of(__name__):
        return PluginError(f"{shown(code.co_filename)}:{code.co_firstlineno}: {error}")
    file = getattr(sys.modules.get(made.__module__), "__file__", None)
    return PluginError(f"{shown(file) if file else made.__module__}: {error}")
