"""Tasks: labelled sequences of token ids, generated or loaded, in two splits."""

from keelback.data.count_rule import CountRule, best_count_rule
from keelback.data.imdb import IMDb, IMDbSettings
from keelback.data.listops import ListOps, ListOpsSettings
from keelback.data.majority import Majority, MajoritySettings
from keelback.data.patterns import (
    Locality,
    MajorityVoting,
    Pattern,
    PatternBatch,
    rotate,
    sample_patterns,
)
from keelback.data.patterns_noise import CorrelatedNoise, GaussianNoise, Noise, StudentNoise
from keelback.data.ragged import PaddingSide, Ragged
from keelback.data.task import (
    SPLIT_NAMES,
    TASKS,
    Split,
    SplitName,
    Task,
    TaskSettings,
    get_task,
    register_task,
)

__all__ = [
    "SPLIT_NAMES",
    "TASKS",
    "CorrelatedNoise",
    "CountRule",
    "GaussianNoise",
    "IMDb",
    "IMDbSettings",
    "ListOps",
    "ListOpsSettings",
    "Locality",
    "Majority",
    "MajoritySettings",
    "MajorityVoting",
    "Noise",
    "PaddingSide",
    "Pattern",
    "PatternBatch",
    "Ragged",
    "Split",
    "SplitName",
    "StudentNoise",
    "Task",
    "TaskSettings",
    "best_count_rule",
    "get_task",
    "register_task",
    "rotate",
    "sample_patterns",
]
