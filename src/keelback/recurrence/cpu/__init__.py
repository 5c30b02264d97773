"""The diagonal recurrence on the CPU."""

from keelback.recurrence.cpu.launch import largest, prepare

#: Half precision is widened before the kernels see it.
WIDENS = False

__all__ = ["WIDENS", "largest", "prepare"]
