"""The forward scan by heads on an NVIDIA GPU: its buffers and launches."""

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import kernel
from keelback.compiled.cuda_operands import address, packed_arguments
from keelback.ssd.cuda.configuration import OutputsConfiguration
from keelback.ssd.cuda.launches import (
    Steps,
    Walk,
    find_states,
    find_steps,
    states_buffer,
    tensor_map,
    with_maps,
)
from keelback.ssd.cuda.operands import Operands, sequences, skip
from keelback.ssd.cuda.plan import Cut, ForwardPlan


def run_forward(given: Operands, plan: ForwardPlan) -> tuple[Tensor, Tensor]:
    """Output (row, time, head, number) and last state (row, head, number, state)."""
    shape, cut = given.shape, plan.cut
    y = torch.empty(given.x.shape, dtype=given.x.dtype, device=given.device)
    last = given.A.new_empty(
        shape.batch, shape.heads, shape.head_dim, shape.states, dtype=torch.float32
    )
    steps = find_steps(given, cut, plan.steps)
    states = states_buffer(given, cut, plan.states)
    walk = Walk(given.x, given.B, given.initial_states, states, last)
    find_states(given, cut, plan.states, 0, steps, walk, None)
    launch_outputs(given, cut, 0, plan.outputs, steps, states, y)
    return y, last


def launch_outputs(
    given: Operands,
    cut: Cut,
    launch: int,
    configuration: OutputsConfiguration,
    steps: Steps,
    states: Tensor,
    y: Tensor,
    dy: Tensor | None = None,
    dz: Tensor | None = None,
) -> None:
    """The outputs from the states between the chunks; outputs.cu says more.

    With `dy`, `y` is the gradient of the outputs before the gate, and `dz` that of the gate.
    """
    arguments = packed_arguments(
        (*cut.sizes(launch), given.initial_states is not None),
        x=sequences(given.x),
        B=sequences(given.B),
        C=sequences(given.C),
        z=sequences(given.z),
        steps=steps.fields,
        states=address(states),
        D=skip(given.D),
        dy=sequences(dy),
        y=address(y),
        dz=address(dz),
    )
    maps, tiles = b"", configuration.tiles
    if tiles.wide:
        maps = tensor_map(given.x, tiles.head_tile, tiles.chunk)
        maps += tensor_map(given.B, tiles.padded_states, tiles.chunk)
        maps += tensor_map(given.C, tiles.padded_states, tiles.chunk)
    kernel(configuration.kernel, configuration, given.device.index).launch(
        cut.blocks(launch), configuration.threads, with_maps(maps, arguments)
    )
