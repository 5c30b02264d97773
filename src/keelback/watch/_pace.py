"""How long what is left will take, by how long what is finished took."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keelback.progress import in_words
from keelback.watch._snapshot import finite


@dataclass(frozen=True)
class Work:
    """A finished run: its cost, when it ended, and the seconds since its batch began."""

    cost: float
    end: float
    seconds: float


def work_of(cost: float, made_by: Mapping[str, Any]) -> Work | None:
    """What a run's record says of when it was made; None where it does not."""
    seconds = finite(made_by.get("seconds_of_batch"))
    try:
        end = datetime.strptime(str(made_by.get("date")), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None
    if seconds is None or seconds < 0:
        return None
    return Work(cost, end.replace(tzinfo=UTC).timestamp(), seconds)


def busy_seconds(works: Iterable[Work]) -> float:
    """How long any of the runs was being executed; the pauses of a sweep do not count.

    Examples:
        >>> busy_seconds([Work(1, end=10, seconds=10), Work(1, end=12, seconds=8)])
        12.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted((work.end - work.seconds, work.end) for work in works):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def seconds_left(
    works: Sequence[Work], cost_left: float, *, now: float, under_way: bool
) -> float | None:
    """The time for `cost_left` at the pace of the finished runs, of which it needs one.

    What is under way shows nothing of itself in the store: the time since the last run ended is
    taken off.

    Examples:
        >>> works = [Work(2.0, end=20.0, seconds=20.0)]
        >>> seconds_left(works, 3.0, now=25.0, under_way=True)
        25.0
    """
    done, busy = sum(work.cost for work in works), busy_seconds(works)
    if done <= 0 or busy <= 0:
        return None
    left = cost_left * busy / done
    if under_way:
        left -= max(0.0, now - max(work.end for work in works))
    return max(0.0, left)


def said(seconds: float | None, finished: int, under_way: bool) -> str:
    """The estimate as a sentence."""
    if seconds is None:
        return "no estimate before a run has finished"
    pace = f"by the pace of {finished} finished run{'' if finished == 1 else 's'}"
    if not under_way:
        return f"about {in_words(seconds)} more once it goes on, {pace}"
    if seconds < 1:
        return f"should end at any moment, {pace}"
    return f"about {in_words(seconds)} left, {pace}"
