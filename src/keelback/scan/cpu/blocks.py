"""Moving the operands of a block between tensors of any stride and tiles in scratch memory.

A tile holds `LANES` floats a row; a row is a time step, or a state. The lanes of a block belong
to one segment, or to several narrow ones side by side; each segment has its own row of the batch,
group and first channel. Lanes that belong to no segment hold zeros.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.exponentials import softplus
from keelback.compiled.jit import kernel
from keelback.compiled.simd import (
    add,
    add_neighbour_1,
    add_neighbour_2,
    add_neighbour_4,
    byte_at,
    lanes_between,
    load,
    load_at,
    load_masked_at,
    mul,
    scalar_at,
    splat,
    store,
    store_at,
    store_masked_at,
    store_scalar_at,
    where,
)
from keelback.scan.cpu.runs import (
    copy_in_1,
    copy_in_2,
    copy_in_4,
    copy_in_8,
    copy_out_1,
    copy_out_2,
    copy_out_4,
    copy_out_8,
    gather_runs,
    repeat_1,
    repeat_2,
    repeat_4,
    repeat_8,
    scatter_runs,
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
def next_place(p, before):
    """The place of the segment after one at `before`, where segments are whole groups."""
    replica, row, group, _, width = before
    group += 1
    if group == p.groups:
        group = 0
        row += 1
        if row == p.rows:
            row = 0
            replica += 1
    return replica, row, group, group * p.channels_per_group, width


@kernel
def fill(scratch, tile, rows, value):
    """Set `rows` rows of a tile to `value`."""
    constant = splat(scratch.dtype.type(value))
    for i in range(rows):
        store(scratch, tile + i * LANES, constant)


@kernel
def copy_in(scratch, index, address, lanes):
    """Copy 1, 2, 4 or 8 floats from memory into scratch."""
    if lanes == 4:
        copy_in_4(scratch, index, address)
    elif lanes == 8:
        copy_in_8(scratch, index, address)
    elif lanes == 2:
        copy_in_2(scratch, index, address)
    else:
        copy_in_1(scratch, index, address)


@kernel
def copy_out(scratch, index, address, lanes):
    """Copy 1, 2, 4 or 8 floats from scratch into memory."""
    if lanes == 4:
        copy_out_4(scratch, index, address)
    elif lanes == 8:
        copy_out_8(scratch, index, address)
    elif lanes == 2:
        copy_out_2(scratch, index, address)
    else:
        copy_out_1(scratch, index, address)


@kernel
def repeat(scratch, index, value, lanes):
    """Write one float to 1, 2, 4 or 8 places of scratch."""
    if lanes == 4:
        repeat_4(scratch, index, value)
    elif lanes == 8:
        repeat_8(scratch, index, value)
    elif lanes == 2:
        repeat_2(scratch, index, value)
    else:
        repeat_1(scratch, index, value)


@kernel
def four_runs(p, block, width, by_lane, itemsize):
    """Whether a block is four whole segments of four neighbours in memory each."""
    first, last = segments_of(p, block)
    return p.lanes_per_segment == 4 and width == 4 and last - first == 4 and by_lane == itemsize


@kernel
def group_offset(p, segment, by_replica, by_row, by_group):
    """Where the group of a segment begins in an operand."""
    replica, row, group, _, _ = place(p, segment)
    return replica * by_replica + row * by_row + group * by_group


@kernel
def group_addresses(p, block, base, by_replica, by_row, by_group):
    """Where the groups of a block's four segments begin."""
    first, _ = segments_of(p, block)
    return (
        base + group_offset(p, first, by_replica, by_row, by_group),
        base + group_offset(p, first + 1, by_replica, by_row, by_group),
        base + group_offset(p, first + 2, by_replica, by_row, by_group),
        base + group_offset(p, first + 3, by_replica, by_row, by_group),
    )


@kernel
def read(p, scratch, block, tile, rows, base, by_replica, by_row, by_step, by_lane):
    """Read `rows` rows of an operand into a tile; leave it alone where the operand is absent."""
    if base == 0:
        return
    first, last = segments_of(p, block)
    here = place(p, first)
    if four_runs(p, block, here[4], by_lane, scratch.itemsize):
        by_group = p.channels_per_group * by_lane
        a, b, c, d = group_addresses(p, block, base, by_replica, by_row, by_group)
        for t in range(rows):
            ahead = t * by_step
            gather_runs(scratch, tile + t * LANES, a + ahead, b + ahead, c + ahead, d + ahead)
        return
    for segment in range(first, last):
        replica, row, _, channel, width = here
        here = next_place(p, here)
        lane = (segment - first) * p.lanes_per_segment
        source = base + replica * by_replica + row * by_row + channel * by_lane
        mask = lanes_between(lane, lane + width)
        if width == LANES and by_lane == scratch.itemsize:
            for t in range(rows):
                store(scratch, tile + t * LANES, load_at(scratch, source + t * by_step))
        elif width == p.lanes_per_segment and by_lane == scratch.itemsize:
            for t in range(rows):
                copy_in(scratch, tile + t * LANES + lane, source + t * by_step, width)
        elif by_lane == scratch.itemsize:
            source -= lane * by_lane
            for t in range(rows):
                value = load_masked_at(scratch, source + t * by_step, mask)
                at = tile + t * LANES
                store(scratch, at, where(mask, value, load(scratch, at)))
        elif by_lane == 0:
            for t in range(rows):
                value = splat(scalar_at(scratch, source + t * by_step))
                at = tile + t * LANES
                store(scratch, at, where(mask, value, load(scratch, at)))
        else:
            for t in range(rows):
                for c in range(width):
                    value = scalar_at(scratch, source + t * by_step + c * by_lane)
                    scratch[tile + t * LANES + lane + c] = value


@kernel
def write(p, scratch, block, tile, rows, base, by_replica, by_row, by_step, by_lane):
    """Write `rows` rows of a tile to an operand; do nothing where the operand is absent."""
    if base == 0:
        return
    first, last = segments_of(p, block)
    here = place(p, first)
    if four_runs(p, block, here[4], by_lane, scratch.itemsize):
        by_group = p.channels_per_group * by_lane
        a, b, c, d = group_addresses(p, block, base, by_replica, by_row, by_group)
        for t in range(rows):
            ahead = t * by_step
            scatter_runs(scratch, tile + t * LANES, a + ahead, b + ahead, c + ahead, d + ahead)
        return
    for segment in range(first, last):
        replica, row, _, channel, width = here
        here = next_place(p, here)
        lane = (segment - first) * p.lanes_per_segment
        target = base + replica * by_replica + row * by_row + channel * by_lane
        if width == LANES and by_lane == scratch.itemsize:
            for t in range(rows):
                store_at(target + t * by_step, load(scratch, tile + t * LANES))
        elif width == p.lanes_per_segment and by_lane == scratch.itemsize:
            for t in range(rows):
                copy_out(scratch, tile + t * LANES + lane, target + t * by_step, width)
        elif by_lane == scratch.itemsize:
            mask = lanes_between(lane, lane + width)
            target -= lane * by_lane
            for t in range(rows):
                store_masked_at(target + t * by_step, load(scratch, tile + t * LANES), mask)
        else:
            for t in range(rows):
                for c in range(width):
                    value = scratch[tile + t * LANES + lane + c]
                    store_scalar_at(target + t * by_step + c * by_lane, value)


@kernel
def read_groups(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
):
    """Read B or C for a block of several segments: each state repeated over its segment's lanes."""
    states, lanes = p.states, p.lanes_per_segment
    first, last = segments_of(p, block)
    here = place(p, first)
    for segment in range(first, last):
        replica, row, group, _, _ = here
        here = next_place(p, here)
        lane = (segment - first) * lanes
        source = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(states):
                value = scalar_at(scratch, source + t * by_step + n * by_state)
                repeat(scratch, tile + (t * states + n) * LANES + lane, value, lanes)


@kernel
def write_groups(
    p, scratch, block, tile, steps, columns, base, by_replica, by_row, by_step, by_group, by_column
):
    """Write the first lane of each segment, in which the sum over its lanes lies."""
    first, last = segments_of(p, block)
    here = place(p, first)
    for segment in range(first, last):
        replica, row, group, _, _ = here
        here = next_place(p, here)
        source = tile + (segment - first) * p.lanes_per_segment
        target = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(columns):
                value = scratch[source + (t * columns + n) * LANES]
                store_scalar_at(target + t * by_step + n * by_column, value)


@kernel
def sum_segments(lanes_per_segment, vector):
    """The sums over the lanes of each segment, in all of its lanes, where segments are narrow."""
    if lanes_per_segment > 1:
        vector = add_neighbour_1(vector)
    if lanes_per_segment > 2:
        vector = add_neighbour_2(vector)
    if lanes_per_segment > 4:
        vector = add_neighbour_4(vector)
    return vector


@kernel
def belonging(p, scratch, block, tile):
    """Write one to the lanes that belong to a segment and zero to the others."""
    first, last = segments_of(p, block)
    here = place(p, first)
    for segment in range(first, last):
        _, _, _, _, width = here
        here = next_place(p, here)
        for c in range(width):
            scratch[tile + (segment - first) * p.lanes_per_segment + c] = 1.0


@kernel
def read_resets(p, scratch, block, tile, start, steps):
    """Write one where the state is kept and zero where it is reset; tells whether any is."""
    any_reset = False
    if p.reset == 0:
        return any_reset
    first, last = segments_of(p, block)
    here = place(p, first)
    for segment in range(first, last):
        replica, row, _, _, width = here
        here = next_place(p, here)
        lane = (segment - first) * p.lanes_per_segment
        source = p.reset + replica * p.reset_replica + row * p.reset_row + start * p.reset_time
        for t in range(steps):
            reset = byte_at(source + t * p.reset_time) != 0
            any_reset = any_reset or reset
            for c in range(width):
                scratch[tile + t * LANES + lane + c] = 0.0 if reset else 1.0
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
