"""Trainings on several gloo processes with the monitor acting, for the tests."""

import os
import socket
from datetime import timedelta
from typing import Any

import forked
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from keelback.audit import TrainingMonitor, unwrapped
from keelback.audit._parameters import whole
from keelback.audit._recurrence import SelectiveRecurrence
from keelback.audit.monitoring import _agreement
from keelback.models import SelectiveSSM

ACTIONS = ("warn", "clip", "rescale", "lower-rate", "stop")
STEPS = 3


class LanguageModel(nn.Module):
    """Its states grow by half a per cent to a third per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 16)
        self.ssm = SelectiveSSM(d_model=16, d_state=4, spectral_abscissa=0.2)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.ssm(self.embedding(tokens)))
        return logits


class DeepSpeedEngine(nn.Module):
    """Of DeepSpeed's shape: the model is its `module`, and it takes the steps itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = nn.parallel.DistributedDataParallel(module)

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


def spread(kind: str, model: nn.Module) -> nn.Module:
    """The model as `kind` spreads it over the processes there are."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "deepspeed":
        return DeepSpeedEngine(model)
    if kind == "accelerate":
        from accelerate import Accelerator

        prepared: nn.Module = Accelerator(cpu=True).prepare(model)
        return prepared
    if kind == "fsdp":
        fully_shard(model.ssm)
        return fully_shard(model)
    if kind == "fsdp-root":
        return fully_shard(model)
    plan = {"head": ColwiseParallel(output_layouts=Replicate())}
    if kind == "tensor-parallel":
        return parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    assert kind == "fsdp-and-tensor-parallel"
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan)
    return fully_shard(model, mesh=mesh["data"])


def training(kind: str, action: Any, every: int = 1) -> dict[str, Any]:
    """What one process saw and has, after a few steps."""
    torch.manual_seed(0)
    model = spread(kind, LanguageModel())
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    monitor = TrainingMonitor(model, every=every, action=action)
    rank = dist.get_rank()
    own = 0 if "tensor" in kind else rank
    generator = torch.Generator().manual_seed(own)
    rows = []
    for step in range(STEPS):
        length = 600 if own == 0 else 20  # only the first process has long sequences
        tokens = torch.randint(0, 4, (2, length), generator=generator)
        alarms = monitor.after_step(step, tokens, optimizer)
        weights = [whole(p.detach()).flatten() for p in unwrapped(model).parameters()]
        rows.append(
            {
                "alarms": [(a.layer, a.step, a.steps_left) for a in alarms],
                "rate": optimizer.param_groups[0]["lr"],
                "stop": monitor.should_stop,
                "weights": torch.cat([w.clone() for w in weights]).tolist(),
            }
        )
        loss = F.cross_entropy(model(tokens[:, :20]).flatten(0, 1), tokens[:, :20].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return {"rows": rows, "readings": monitor.summary(), "failures": monitor.failures}


def failing(rank: int) -> dict[str, Any]:
    """One process has no batch, later a batch that its model cannot take."""
    torch.manual_seed(0)
    model = spread("ddp", LanguageModel())
    logged: list[int] = []
    monitor = TrainingMonitor(model, every=1, log=lambda values, step: logged.append(step))
    tokens = torch.zeros(1, 30, dtype=torch.long)
    monitor.after_step(0, None if rank == 1 else tokens)
    monitor.after_step(1, tokens + (99 if rank == 1 else 0))
    monitor.after_step(2, tokens)
    return {
        "failures": monitor.failures,
        "steps": sorted({r.step for r in monitor.readings}),
        "logged": logged,
    }


class WithEmbeddings(LanguageModel):
    """Tells which ids it takes, as models of transformers do."""

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


def failing_while_split(rank: int) -> dict[str, Any]:
    """The same of a model that is split: no process may leave a pass that the others are in."""
    torch.manual_seed(0)
    model = spread("fsdp", WithEmbeddings())
    monitor = TrainingMonitor(model, every=1)
    tokens = torch.zeros(1, 30, dtype=torch.long)
    monitor.after_step(0, None if rank == 1 else tokens)
    monitor.after_step(1, tokens + (99 if rank == 1 else 0))
    read = SelectiveRecurrence.state_norms
    if rank == 1:
        SelectiveRecurrence.state_norms = _cannot  # type: ignore[method-assign,assignment]
    monitor.after_step(2, tokens)
    SelectiveRecurrence.state_norms = read  # type: ignore[method-assign]
    monitor.after_step(3, tokens)
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
    return {"failures": monitor.failures, "steps": sorted({r.step for r in monitor.readings})}


def _cannot(*_: Any) -> None:
    raise ZeroDivisionError("no state to speak of")


def leaving_a_split_pass(rank: int, world: int, port: int) -> None:
    """A batch that the model itself cannot take, on the second process only."""
    _begin(rank, world, port)
    model = spread("fsdp", LanguageModel())
    tokens = torch.zeros(1, 30, dtype=torch.long)
    TrainingMonitor(model, every=1).after_step(0, tokens + (99 if rank == 1 else 0))


class Stage(nn.Module):
    """A part of a pipeline: layers of its own, on what the stage before it gives."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        layer = SelectiveSSM(d_model=16, d_state=4, spectral_abscissa=0.2)
        self.layers = nn.ModuleDict({str(rank): layer})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x


def in_a_pipeline(rank: int) -> dict[Any, Any]:
    """Each process has other layers, and only those of the first see long sequences."""
    found: dict[Any, Any] = {}
    for action in ACTIONS:
        torch.manual_seed(rank)
        model = Stage(rank)
        optimizer = torch.optim.SGD(model.parameters(), 1e-6)
        monitor = TrainingMonitor(model, every=1, action=action)
        x = torch.randn(2, 600 if rank == 0 else 20, 16)
        alarms = monitor.after_step(0, lambda own=model, x=x: own(x), optimizer)
        found[action] = {
            "alarms": [(a.layer, a.steps_left) for a in alarms],
            "layers": sorted(r.layer for r in monitor.readings),
            "rate": optimizer.param_groups[0]["lr"],
            "stop": monitor.should_stop,
            "failures": monitor.failures,
            "abscissa": float(model.layers[str(rank)].A.detach().max()),
        }
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def alone(rank: int) -> dict[str, Any]:
    """Only some processes ask the monitor, as one does that logs on the first."""
    torch.manual_seed(0)
    model = spread("ddp", LanguageModel())
    tokens = torch.zeros(1, 30, dtype=torch.long)
    _agreement._PATIENCE = timedelta(seconds=1)
    found: dict[str, Any] = {"failures": [], "steps": []}
    if rank == 0:
        monitor = TrainingMonitor(model, every=1)
        for step in range(3):
            monitor.after_step(step, tokens)
        found = {"failures": monitor.failures, "steps": [r.step for r in monitor.readings]}
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
    return found


def _begin(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)


def _on_one(rank: int, world: int, port: int, kinds: tuple[str, ...], results: Any) -> None:
    _begin(rank, world, port)
    found: dict[Any, Any] = {
        (kind, action): training(kind, action) for kind in kinds for action in ACTIONS
    }
    found["failing"] = failing(rank)
    found["failing while split"] = failing_while_split(rank)
    found["pipeline"] = in_a_pipeline(rank)
    found["alone"] = alone(rank)
    results[rank] = found
    dist.destroy_process_group()


def on_processes(world: int, kinds: tuple[str, ...]) -> list[dict[Any, Any]]:
    """What each of several processes saw, of every kind and action."""
    with mp.Manager() as manager:
        results = manager.dict()
        forked.on_processes(world, _on_one, world, free_port(), kinds, results)
        return [results[rank] for rank in range(world)]
