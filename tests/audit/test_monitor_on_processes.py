"""The monitor where several processes train one model: all see the same and do the same."""

from typing import Any

import forked
import monitored_processes
import pytest
import torch

KINDS = {
    2: ("ddp", "deepspeed", "accelerate", "fsdp", "fsdp-root", "tensor-parallel"),
    4: ("ddp", "fsdp", "fsdp-and-tensor-parallel"),
}


@pytest.fixture(scope="module", params=[2, 4])
def processes(request: pytest.FixtureRequest) -> list[dict[Any, Any]]:
    pytest.importorskip("accelerate")
    return monitored_processes.on_processes(request.param, KINDS[request.param])


@pytest.mark.parametrize("action", monitored_processes.ACTIONS)
def test_all_processes_act_the_same(processes: list[dict[Any, Any]], action: str) -> None:
    kinds = KINDS[len(processes)]
    for kind in kinds:
        first, *others = (own[kind, action] for own in processes)
        assert first["failures"] == []
        assert all(other == first for other in others), kind
        assert len(first["rows"][0]["alarms"]) == 1
        stops = [row["stop"] for row in first["rows"]]
        assert stops == [action == "stop"] * 3
        lowered = [row["rate"] < 1e-6 for row in first["rows"]]
        assert lowered == [action == "lower-rate"] * 3
        if action in ("clip", "rescale"):
            assert first["rows"][2]["alarms"] == []


@pytest.mark.parametrize("action", ["warn", "clip", "rescale"])
def test_the_edit_is_the_same_however_the_model_is_spread(
    processes: list[dict[Any, Any]], action: str
) -> None:
    expected = torch.tensor(processes[0]["ddp", action]["rows"][0]["weights"])
    unedited = torch.tensor(processes[0]["ddp", "warn"]["rows"][0]["weights"])
    for kind in KINDS[len(processes)]:
        found = torch.tensor(processes[0][kind, action]["rows"][0]["weights"])
        assert torch.allclose(found, expected, rtol=1e-5), kind
    assert torch.equal(expected, unedited) == (action == "warn")


def test_what_one_process_cannot_read_ends_nothing(processes: list[dict[Any, Any]]) -> None:
    for rank, own in enumerate(processes):
        first, second = own["failing"]["failures"]
        assert first == "step 0: the layers could not be read on process 1: it was given no batch"
        assert second.startswith("step 1: the layers could not be read on process 1: ")
        assert "IndexError: index out of range" in second
        assert own["failing"]["steps"] == [2]
        assert own["failing"]["logged"] == ([2] if rank == 0 else [])


def test_a_process_that_does_not_ask_is_not_waited_for_in_vain(
    processes: list[dict[Any, Any]],
) -> None:
    first, *others = (own["alone"] for own in processes)
    absent = ", ".join(str(rank) for rank in range(1, len(processes)))
    (failure,) = first["failures"]
    assert failure.startswith(f"step 0: process {absent} did not come: the monitor must be asked")
    assert first["steps"] == []
    assert all(own == {"failures": [], "steps": []} for own in others)


@pytest.mark.parametrize("action", monitored_processes.ACTIONS)
def test_each_process_may_have_layers_of_its_own(
    processes: list[dict[Any, Any]], action: str
) -> None:
    """All see the alarm of the first process's layer, and only that one edits it."""
    first, *others = (own["pipeline"][action] for own in processes)
    assert first["layers"] == [f"layers.{rank}" for rank in range(len(processes))]
    assert [layer for layer, _ in first["alarms"]] == ["layers.0"]
    shared = ("alarms", "layers", "rate", "stop", "failures")
    for other in others:
        assert {k: other[k] for k in shared} == {k: first[k] for k in shared}
        assert other["abscissa"] == pytest.approx(0.2)
    assert first["failures"] == []
    assert first["stop"] == (action == "stop")
    assert (first["rate"] < 1e-6) == (action == "lower-rate")
    assert (first["abscissa"] < 0.19) == (action in ("clip", "rescale"))


def test_what_cannot_be_read_of_a_split_model_is_read_to_its_end(
    processes: list[dict[Any, Any]],
) -> None:
    for own in processes:
        first, second, third = own["failing while split"]["failures"]
        assert first == "step 0: the layers could not be read on process 1: it was given no batch"
        assert "on process 1: token 0 is 99; this model's ids are from 0 to 3" in second
        assert third.endswith("could not be read on process 1: no state to speak of")
        assert own["failing while split"]["steps"] == [3]


def test_a_pass_that_fails_on_one_process_of_a_split_model_ends_there() -> None:
    """Were it kept quiet, the others would wait for this process, and it for them."""
    pytest.importorskip("accelerate")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="index out of range"):
        forked.on_processes(
            2, monitored_processes.leaving_a_split_pass, 2, monitored_processes.free_port()
        )
