"""Moving the operands of a block between tensors of any stride and tiles in scratch memory.

A tile holds `LANES` floats a row; a row is a time step, or a state. The lanes of a block belong
to one segment, or to several narrow ones side by side; each segment has its own row of the batch,
group and first channel. Lanes that belong to no segment hold zeros.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.scan._exp_kernels import softplus
from keelback.scan._jit import kernel
from keelback.scan._layout import LANES
from keelback.scan._simd_kernels import (
    add,
    byte_at,
    load,
    load_at,
    mul,
    scalar_at,
    splat,
    store,
    store_at,
    store_scalar_at,
)


@kernel
def segments_of(p, block):
    """The first segment of a block, and the one after its last."""
    first = block * p.segments_per_block
    return first, min(first + p.segments_per_block, p.segments)


@kernel
def place(p, segment):
    """Replica, row, group, first channel and width of a segment."""
    group_index = segment // p.blocks_per_group
    first = (segment % p.blocks_per_group) * LANES
    row_index = group_index // p.groups
    group = group_index % p.groups
    width = min(LANES, p.channels_per_group - first)
    channel = group * p.channels_per_group + first
    return row_index // p.rows, row_index % p.rows, group, channel, width


@kernel
def fill(scratch, tile, rows, value):
    """Set `rows` rows of a tile to `value`."""
    constant = splat(scratch.dtype.type(value))
    for i in range(rows):
        store(scratch, tile + i * LANES, constant)


@kernel
def read(p, scratch, block, tile, rows, base, by_replica, by_row, by_step, by_lane):
    """Read `rows` rows of an operand into a tile; leave it alone where the operand is absent."""
    if base == 0:
        return
    lane = 0
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, _, channel, width = place(p, segment)
        source = base + replica * by_replica + row * by_row + channel * by_lane
        if width == LANES and by_lane == scratch.itemsize:
            for t in range(rows):
                store(scratch, tile + t * LANES, load_at(scratch, source + t * by_step))
        else:
            for t in range(rows):
                for c in range(width):
                    value = scalar_at(scratch, source + t * by_step + c * by_lane)
                    scratch[tile + t * LANES + lane + c] = value
        lane += width


@kernel
def write(p, scratch, block, tile, rows, base, by_replica, by_row, by_step, by_lane):
    """Write `rows` rows of a tile to an operand; do nothing where the operand is absent."""
    if base == 0:
        return
    lane = 0
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, _, channel, width = place(p, segment)
        target = base + replica * by_replica + row * by_row + channel * by_lane
        if width == LANES and by_lane == scratch.itemsize:
            for t in range(rows):
                store_at(target + t * by_step, load(scratch, tile + t * LANES))
        else:
            for t in range(rows):
                for c in range(width):
                    value = scratch[tile + t * LANES + lane + c]
                    store_scalar_at(target + t * by_step + c * by_lane, value)
        lane += width


@kernel
def read_groups(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
):
    """Read B or C for a block of several segments: each state repeated over its segment's lanes."""
    lane = 0
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, group, _, width = place(p, segment)
        source = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(p.states):
                value = scalar_at(scratch, source + t * by_step + n * by_state)
                at = tile + (t * p.states + n) * LANES + lane
                for c in range(width):
                    scratch[at + c] = value
        lane += width


@kernel
def add_groups(
    p, scratch, block, tile, steps, columns, base, by_replica, by_row, by_step, by_group, by_column
):
    """Sum each row of a tile over the lanes of each segment, and add it to an operand."""
    lane = 0
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, group, _, width = place(p, segment)
        target = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(columns):
                at = tile + (t * columns + n) * LANES + lane
                total = scratch[at]
                for c in range(1, width):
                    total += scratch[at + c]
                place_of_sum = target + t * by_step + n * by_column
                store_scalar_at(place_of_sum, scalar_at(scratch, place_of_sum) + total)
        lane += width


@kernel
def read_resets(p, scratch, block, tile, start, steps):
    """Write one where the state is kept and zero where it is reset; tells whether any is."""
    any_reset = False
    if p.reset == 0:
        return any_reset
    lane = 0
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, _, _, width = place(p, segment)
        source = p.reset + replica * p.reset_replica + row * p.reset_row + start * p.reset_time
        for t in range(steps):
            reset = byte_at(source + t * p.reset_time) != 0
            any_reset = any_reset or reset
            for c in range(width):
                scratch[tile + t * LANES + lane + c] = 0.0 if reset else 1.0
        lane += width
    return any_reset


@kernel
def discretise(p, scratch, steps, raw, bias, u, delta, driven):
    """Write the step sizes softplus(raw + bias), and `driven`, the step sizes times u."""
    shift = load(scratch, bias)
    for t in range(steps):
        step = add(load(scratch, raw + t * LANES), shift)
        if p.softplus:
            step = softplus(step)
        store(scratch, delta + t * LANES, step)
        store(scratch, driven + t * LANES, mul(step, load(scratch, u + t * LANES)))
