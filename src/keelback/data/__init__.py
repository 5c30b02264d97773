"""Tasks: labelled sequences of token ids, generated or loaded, in two splits."""

from keelback._moved import moved
from keelback.data.count_rule import CountRule, best_count_rule
from keelback.data.imdb import IMDb, IMDbSettings
from keelback.data.listops import ListOps, ListOpsSettings
from keelback.data.majority import Majority, MajoritySettings
from keelback.data.ragged import PaddingSide, Ragged
from keelback.data.split import SPLIT_NAMES, Split, SplitName
from keelback.data.task import (
    TASKS,
    Task,
    TaskSettings,
    fresh_seed,
    get_task,
    register_task,
    require_task,
    task_name,
)

__all__ = [
    "SPLIT_NAMES",
    "TASKS",
    "CountRule",
    "IMDb",
    "IMDbSettings",
    "ListOps",
    "ListOpsSettings",
    "Majority",
    "MajoritySettings",
    "PaddingSide",
    "Ragged",
    "Split",
    "SplitName",
    "Task",
    "TaskSettings",
    "best_count_rule",
    "fresh_seed",
    "get_task",
    "register_task",
    "require_task",
    "task_name",
]

__getattr__ = moved(
    __name__,
    dict.fromkeys(
        (
            "Locality",
            "MajorityVoting",
            "Pattern",
            "PatternBatch",
            "rotate",
            "sample_patterns",
            "CorrelatedNoise",
            "GaussianNoise",
            "Noise",
            "StudentNoise",
        ),
        "keelback.dynamics",
    ),
)
