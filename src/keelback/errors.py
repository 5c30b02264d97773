"""The errors that keelback raises for people: what was wrong, where, and what would be right."""


class InputError(ValueError):
    """The input was wrong. The command line prints the message on one line and exits with 2."""


class JobError(RuntimeError):
    """The input was right and the job failed. The command line prints the message and exits with 1."""
