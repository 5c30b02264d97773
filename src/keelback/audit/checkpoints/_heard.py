"""What transformers says while it works: kept from the terminal, and not lost."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OF_SPEED = ("fast path", "falling back", "naive", "kernel", "is not available", "is required for")
_TOLD_OTHERWISE = ("LOAD REPORT",)


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.remarks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        silent = any(word in message for word in (*_OF_SPEED, *_TOLD_OTHERWISE))
        if message and not silent and message not in self.remarks:
            self.remarks.append(message)


@contextmanager
def heard_transformers() -> Iterator[list[str]]:
    """Keep its progress bars and log from the terminal, if it is there; gives its warnings.

    Advice on speed is left out, and so is the report on a checkpoint's tensors, which is raised as
    an error where anything is wrong.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        yield []
        return
    log = transformers.utils.logging
    logger, ear = logging.getLogger("transformers"), _Ear()
    level, bars, handlers = logger.level, log.is_progress_bar_enabled(), logger.handlers[:]
    spreads = logger.propagate
    logger.handlers[:], logger.propagate = [ear], False
    logger.setLevel(logging.WARNING)
    log.disable_progress_bar()
    try:
        yield ear.remarks
    finally:
        logger.handlers[:], logger.propagate = handlers, spreads
        logger.setLevel(level)
        if bars:
            log.enable_progress_bar()
