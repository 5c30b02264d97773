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
  States dh;
  set_out(dh, p.start, sizes, place, warp, lane);
#pragma unroll 1
  for (int passed = 0; passed < sizes.chunks; ++passed) {
    const BackStage& stage = shared.chunks.arrive(passed);
    const Index number = place.number(sizes, sizes.chunks - 1 - passed);
    store_blocks<kKey>(of_values<kKey>(p.adjoints, number, place), warp * 2, 0, dh, lane);

    Sums<kRowBlocks> du;
    clear(du);
    Fragment lefts[kKey / 16], outputs[kRowBlocks], writes[kRowBlocks];
    set_lefts(lefts, dh);
#pragma unroll
    for (int k = 0; k < kKey / 16; ++k) add_to<true>(du, lefts[k], stage.walk.k, k * 2, 0, lane);
    end_products(du);
    scale_columns_of(du, stage.walk.left_k, lane);
    const float across = stage.walk.entering[kChunk - 1];
    scale_rows_of(dh, across, across);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      load_left_transposed(outputs[k], stage.dy, k * 2, warp * 2, lane);
      add_to<false>(du, outputs[k], stage.walk.weights, k * 2, 0, lane);
    }
    end_products(du);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      scale_columns(outputs[k], stage.walk.entered_q, k * 16, Seat(lane));
      add_to<false>(dh, outputs[k], stage.walk.q, k * 2, 0, lane);
    }
    set_lefts(writes, du);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) add_to<false>(dh, writes[k], stage.walk.erasing, k * 2, 0, lane);
    store_blocks<kChunk>(of_values<kChunk>(p.dwritten, number, place), warp * 2, 0, du, lane);
    end_products(dh);
    shared.chunks.leave(passed, sizes.chunks, thread, fetch_stage);
  }
  arrive_at(p.end, sizes, place, dh, warp, lane);
}
