// Back through the chunks: with dh the gradient of the states after one, that of what its steps write is
//     du = weights^T dy + left k dh,      dh' = across dh + entered q^T dy + erasing^T du
// that of the states before it. du and dh are kept for the gradients of the operands.
#include "walks.cuh"

struct BackArguments {
  TensorMap q, k, of_outputs;
  Walk walk;
  Sequences dy;
  const float* start;  // the gradient of the last states (row, head, key, value), or null for zero
  Stored* dwritten;    // du, (row, head, chunk, value, step)
  Stored* adjoints;    // dh after each chunk, (row, head, chunk, value, key)
  float* end;          // the gradient of the initial states, or null
};

struct BackStage {
  Operand<kChunk, kValueTile> dy;
  WalkStage walk;
};

struct BackShared {
  Stages<BackStage, kWalkBytes + sizeof(BackStage::dy)> chunks;
};

EXPORTED_SIZE(back_shared_bytes, BackShared)

KERNEL void __launch_bounds__(kThreads, 1) keelback_back(const GRID_CONSTANT BackArguments p) {
  SHARED_MEMORY(BackShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Sizes& sizes = p.walk.sizes;
  const WalkPlace place(sizes, blockIdx.x);
  const int first_value = place.value_tile * kValueTile;
  const auto fetch_stage = [&](BackStage& stage, CopyBarrier& full, int passed) {
    const int chunk = sizes.chunks - 1 - passed, time = chunk * kChunk;
    fetch_walk(stage.walk, p.walk, p.q, p.k, place, chunk, full, thread);
    fetch<kThreads>(stage.dy, p.of_outputs, p.dy, place.row, time, place.head, first_value, sizes.length - time,
                    sizes.value - first_value, full, thread);
  };
  shared.chunks.begin(sizes.chunks, thread, fetch_stage);
  if (kWide && warp == kWarps) {
    for (int passed = 0; passed < sizes.chunks; ++passed) shared.chunks.leave(passed, sizes.chunks, thread, fetch_stage);
    return;
  }
  States dh;
  set_out(dh, p.start, sizes, place, warp, lane);
#pragma unroll 1
  for (int passed = 0; passed < sizes.chunks; ++passed) {
    const BackStage& stage = shared.chunks.arrive(passed);
    const Index number = place.number(sizes, sizes.chunks - 1 - passed);
    store_blocks<kKey>(of_values<kKey>(p.adjoints, number, place), warp * 2, 0, dh, lane);

    Sums<kRowBlocks> du;
    clear(du);
    Fragment after[kKey / 16], outputs[kRowBlocks], entered[kRowBlocks], writes[kRowBlocks];
    set_lefts(after, dh);
    add_all<true>(du, after, stage.walk.k, lane);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      load_left_transposed(outputs[k], stage.dy, k * 2, warp * 2, lane);
      entered[k] = outputs[k];
      scale_columns(entered[k], stage.walk.entered_q, k * 16, Seat(lane));
    }
    const float across = stage.walk.entering[kChunk - 1];
    scale_rows_of(dh, across, across);
    add_all<false>(dh, entered, stage.walk.q, lane);
    wait_for<1>(du);
    scale_columns_of(du, stage.walk.left_k, lane);
    add_all<false>(du, outputs, stage.walk.weights, lane);
    wait_for<0>(du);
    wait_for<0>(dh);
    release(after);
    release(outputs);
    release(entered);
    set_lefts(writes, du);
    add_all<false>(dh, writes, stage.walk.erasing, lane);
    store_blocks<kChunk>(of_values<kChunk>(p.dwritten, number, place), warp * 2, 0, du, lane);
    wait_for<0>(dh);
    release(writes);
    shared.chunks.leave(passed, sizes.chunks, thread, fetch_stage);
  }
  arrive_at(p.end, sizes, place, dh, warp, lane);
}
