"""Imports without the garbage collector, which is back afterwards whatever happened."""

import gc

import pytest

from keelback.cli.app import heavy_imports


def test_the_collector_rests_inside_and_is_back_afterwards() -> None:
    with heavy_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), heavy_imports():
        raise ImportError
    assert gc.isenabled()


def test_what_was_imported_is_left_out_of_later_collections() -> None:
    gc.unfreeze()
    with heavy_imports():
        made = [[] for _ in range(1000)]
    assert gc.get_freeze_count() >= len(made)
    gc.unfreeze()
