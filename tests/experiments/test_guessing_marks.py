"""Accuracies are drawn beside what needs no input, and people's names stand for code names."""

from collections import Counter

from keelback.data import get_task
from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments.first_paper.baselines import Baselines, BaselinesSettings
from keelback.sweeps.store import StoredRun


def planned(tmp_path, **settings):
    given = BaselinesSettings(**settings)
    return [
        StoredRun(run.name, tmp_path, run.fields(), summary={}, provenance={})
        for run in Baselines().runs(given)
    ], given.paths


def test_listops_has_a_class_that_is_more_frequent_than_chance(tmp_path):
    runs, paths = planned(tmp_path, task="listops", seq_len=[20, 50], seeds=3)
    chance, frequent = guessing_marks(runs, paths)
    assert (chance.at, chance.axis) == (0.1, "y")
    assert "10 classes" in chance.label
    assert frequent.label == "most frequent class"
    counts = Counter()
    settings = {str(run.fields["task_settings"]): run.fields["task_settings"] for run in runs}
    for given in settings.values():
        counts.update(get_task("listops", **given).split("test").labels.tolist())
    assert frequent.at == max(counts.values()) / counts.total()


def test_a_balanced_task_has_one_line(tmp_path):
    """The test strings of several seeds together: a single sample favours one label."""
    runs, paths = planned(tmp_path, task="majority", seq_len=[25, 50], seeds=8)
    assert [mark.at for mark in guessing_marks(runs, paths)] == [0.5]


def test_examples_that_cannot_be_read_again_leave_chance_alone(tmp_path):
    fields = {"task": "imdb", "task_settings": {"seq_len": 50}, "model": {"n_classes": 2}}
    run = StoredRun("4f2a", tmp_path, fields, summary={}, provenance={})
    assert [mark.at for mark in guessing_marks([run], {"data": tmp_path / "none"})] == [0.5]


def test_names_are_those_that_people_use():
    assert in_words("lti-ssm") == "LTI SSM"
    assert in_words("imdb") == "IMDb"
    assert in_words("task of a plugin") == "task of a plugin"
