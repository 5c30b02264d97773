"""Memory: what there is, and whether something fits, before it is allocated."""

import os
from pathlib import Path

from keelback.errors import InputError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def available_bytes() -> int:
    """Bytes that this machine can still give to a process: its own free memory, or its group's."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = [1024 * int(fields["MemAvailable"].split()[0])]
    for limit, used in zip(map(Path, _LIMITS), map(Path, _USED), strict=True):
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":
            free.append(int(limit.read_text()) - int(used.read_text()))
    return max(0, min(free))


def require_memory(needed: float, what: str) -> None:
    """Refuse what would not fit.

    Args:
        needed: bytes, roughly and rather too few than too many.
        what: what takes them, as the subject of a sentence in the plural.

    Raises:
        InputError: more bytes are needed than there are.

    Examples:
        >>> require_memory(2.0**60, "these tokens")
        Traceback (most recent call last):
        keelback.errors.InputError: these tokens would take 1.0 EiB of memory; ...
    """
    there = available_bytes()
    if needed > there:
        raise InputError(
            f"{what} would take {in_units(needed)} of memory; {in_units(there)} are free"
        )


def require_tensors(device: str, numbers: float, what: str) -> None:
    """Refuse tensors of so many numbers that would not fit; a GPU says so itself, at once.

    Args:
        device: where they are to lie.
        numbers: how many there are, of four bytes, rather too few than too many.
        what: what they are, as the subject of a sentence in the plural.

    Raises:
        InputError: they need more bytes than there are.

    Examples:
        >>> require_tensors("cpu", 2.0**58, "the operands")
        Traceback (most recent call last):
        keelback.errors.InputError: the operands would take 1.0 EiB of memory; ...
    """
    if device == "cpu":
        require_memory(4 * numbers, what)


def in_units(count: float) -> str:
    """Bytes as people read them: `1.5 GiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = 0
    while count >= 1024 and power < len(units) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} B" if power == 0 else f"{count:.1f} {units[power]}"
