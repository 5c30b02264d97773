"""Accuracies are drawn beside what needs no input, and people's names stand for code names."""

import pytest

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
    runs, paths = planned(tmp_path, task="listops", seq_len=[20], seeds=1)
    chance, frequent = guessing_marks(runs, paths)
    assert (chance.at, chance.axis) == (0.1, "y")
    assert "10 classes" in chance.label
    assert 0.12 < frequent.at < 0.4
    assert frequent.label == "most frequent class"


def test_the_most_frequent_class_is_counted_in_the_test_examples(tmp_path):
    runs, paths = planned(tmp_path, task="majority", seq_len=[25], seeds=1)
    marks = guessing_marks(runs, paths)
    from keelback.data import get_task

    labels = get_task("majority", **runs[0].fields["task_settings"]).split("test").labels
    share = max(float((labels == label).float().mean()) for label in (0, 1))
    expected = [0.5] if abs(share - 0.5) < 0.01 else [0.5, pytest.approx(share)]
    assert [mark.at for mark in marks] == expected


def test_examples_that_cannot_be_read_again_leave_chance_alone(tmp_path):
    fields = {"task": "imdb", "task_settings": {"seq_len": 50}, "model": {"n_classes": 2}}
    run = StoredRun("4f2a", tmp_path, fields, summary={}, provenance={})
    assert [mark.at for mark in guessing_marks([run], {"data": tmp_path / "none"})] == [0.5]


def test_names_are_those_that_people_use():
    assert in_words("lti-ssm") == "LTI SSM"
    assert in_words("imdb") == "IMDb"
    assert in_words("task of a plugin") == "task of a plugin"
