"""Imports without the garbage collector, which is back afterwards whatever happened."""

import gc
import subprocess
import sys

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


def test_a_command_finds_the_heavy_imports_done_and_help_does_without() -> None:
    told = (
        "import sys, keelback.cli.app as a\n"
        "before = 'torch' in sys.modules\n"
        "@a.app.command(name='probe')\n"
        "def probe() -> None: print(before, 'torch' in sys.modules)\n"
        "a.main(sys.argv[1:])"
    )
    for arguments, expected in ((["probe"], "False True"), (["probe", "--help"], "Usage")):
        command = [sys.executable, "-c", told, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in done.stdout
