"""Checkpoints on disk: what they hold, loading them whole, and copies with a few tensors edited."""

from keelback.audit.checkpoints._load import LoadedModel, load_any_model
from keelback.audit.checkpoints._record import REPLACED_FILE, REPORT_FILE
from keelback.audit.checkpoints._save import (
    Undone,
    require_free,
    require_savable,
    save_repaired,
    undo_repair,
    whole_folder,
)

__all__ = [
    "REPLACED_FILE",
    "REPORT_FILE",
    "LoadedModel",
    "Undone",
    "load_any_model",
    "require_free",
    "require_savable",
    "save_repaired",
    "undo_repair",
    "whole_folder",
]
