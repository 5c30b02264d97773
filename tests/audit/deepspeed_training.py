"""A training by DeepSpeed on several gloo processes, with the monitor acting, for the tests."""

import os
from typing import Any

import forked
import torch
import torch.nn.functional as F
from monitored_processes import LanguageModel, free_port
from torch import multiprocessing as mp

from keelback.audit import TrainingMonitor, find_layers, unwrapped

STEPS = 3


def _config(stage: int, precision: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {"type": "SGD", "params": {"lr": 1e-6}},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bfloat16"},
    }


def _on_one(rank: int, world: int, port: int, kinds: Any, results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed("gloo")
    results[rank] = {kind: _training(rank, *kind) for kind in kinds}
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _training(rank: int, stage: int, precision: str, action: Any) -> dict[str, Any]:
    import deepspeed

    torch.manual_seed(0)
    model = LanguageModel()
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=_config(stage, precision)
    )
    monitor = TrainingMonitor(engine, every=1, action=action)
    (layer,) = find_layers(unwrapped(engine))
    generator = torch.Generator().manual_seed(rank)
    rows = []
    for step in range(STEPS):
        length = 600 if rank == 0 else 20  # only the first process has long sequences
        tokens = torch.randint(0, 4, (2, length), generator=generator)
        alarms = monitor.after_step(step, tokens, optimizer)
        rows.append(
            {
                "alarms": len(alarms),
                "rate": optimizer.param_groups[0]["lr"],
                "stop": monitor.should_stop,
                "A": layer.state_matrix().float().tolist(),
            }
        )
        loss = F.cross_entropy(
            engine(tokens[:, :20]).float().flatten(0, 1), tokens[:, :20].flatten()
        )
        engine.backward(loss)
        engine.step()
    return {"rows": rows, "failures": monitor.failures, "readings": len(monitor.readings)}


def by_deepspeed(kinds: Any, world: int = 2) -> list[dict[Any, Any]]:
    """What each process saw, by ZeRO stage, precision and action."""
    with mp.Manager() as manager:
        results = manager.dict()
        forked.on_processes(world, _on_one, world, free_port(), kinds, results)
        return [results[rank] for rank in range(world)]
