"""What long work is doing, and how much of it is done, for whoever shows it.

Work says it by `tracked` and `tell`, wherever it is nested; it costs nothing where nobody listens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and the whole (0 if not known)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, tell `listener` what work does."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(doing: str, done: float = 0, whole: float = 0) -> None:
    """Tell what is being done, how much of it is done, and the whole (0 if not known)."""
    listener = _listener.get()
    if listener is not None:
        listener(doing, done, whole)


def tracked(items: Sequence[Item], doing: str) -> Iterator[Item]:
    """The items one by one, telling each time how many of them are done.

    Args:
        items: what is worked through.
        doing: what the work is, as the end of a line: "training the prior".

    Examples:
        >>> with listening(lambda doing, done, whole: print(doing, done, "of", whole)):
        ...     total = sum(tracked([3, 4], "adding"))
        adding 0 of 2
        adding 1 of 2
        adding 2 of 2
    """
    for done, item in enumerate(items):
        tell(doing, done, len(items))
        yield item
    tell(doing, len(items), len(items))


def in_words(seconds: float) -> str:
    """A time for people: hours and minutes, minutes and seconds, or seconds.

    Examples:
        >>> in_words(93.7), in_words(7322)
        ('1 min 34 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
