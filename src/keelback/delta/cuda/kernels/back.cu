// Back through the chunks: with dh the gradient of the states after one, that of what its steps write is
//     du = weights^T dy + left k dh,      dh' = across dh + entered q^T dy + erasing^T du
// that of the states before it. du and dh are kept for the gradients of the operands.
#include "walks.cuh"

struct BackArguments {
  Walk walk;
  Sequences dy;
  const float* start;  // the gradient of the last states (row, head, key, value), or null for zero
  Stored* dwritten;    // du, (row, head, chunk, value, step)
  Stored* adjoints;    // dh after each chunk, (row, head, chunk, value, key)
  float* end;          // the gradient of the initial states, or null
};

struct BackStage {
  WalkStage walk;
  Tile<kChunk, kValueTile> dy;
};

struct BackShared {
  BackStage stages[kStages];
};

EXPORTED_SIZE(back_shared_bytes, BackShared)

KERNEL void __launch_bounds__(kThreads, 1) keelback_back(const BackArguments p) {
  SHARED_MEMORY(BackShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Sizes& sizes = p.walk.sizes;
  const WalkPlace place(sizes, blockIdx.x);
  const int first_value = place.value_tile * kValueTile;
  const auto load = [&](int passed) {
    if (passed < sizes.chunks) {
      const int chunk = sizes.chunks - 1 - passed, time = chunk * kChunk;
      BackStage& stage = shared.stages[passed % kStages];
      load_walk(stage.walk, p.walk, place, chunk, thread);
      copy_rows<kThreads>(stage.dy, p.dy.of(place.row, time, place.head) + first_value, p.dy.time, sizes.length - time,
                          sizes.value - first_value, thread);
    }
    close_copies();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) load(i);
  States dh;
  set_out(dh, p.start, sizes, place, warp, lane);
#pragma unroll 1
  for (int passed = 0; passed < sizes.chunks; ++passed) {
    if constexpr (kStages == 1) {
      synchronize_block();
      load(passed);
      arrive_with_copies<0>();
    } else {
      arrive_with_copies<kStages - 2>();
      load(passed + kStages - 1);
    }
    const BackStage& stage = shared.stages[passed % kStages];
    const Index number = place.number(sizes, sizes.chunks - 1 - passed);
    store_blocks<kKey>(of_values<kKey>(p.adjoints, number, place), warp * 2, 0, dh, lane);

    Sums<kRowBlocks> du;
    clear(du);
#pragma unroll
    for (int k = 0; k < kKey / 16; ++k) {
      Fragment left;
      set_left(left, dh[k]);
      add_product<true>(du, left, stage.walk.k, k * 2, 0, lane);
    }
    scale_columns_of(du, stage.walk.left_k, lane);
    const float across = stage.walk.entering[kChunk - 1];
    scale_rows_of(dh, across, across);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      Fragment left;
      load_left_transposed(left, stage.dy, k * 2, warp * 2, lane);
#pragma unroll
      for (int n = 0; n <= k; ++n) {
        Fragment right;
        load_right(right, stage.walk.weights, k * 2, n * 2, lane);
        multiply(du[n], left, right);
      }
      scale_columns(left, stage.walk.entered_q, k * 16, Seat(lane));
      add_product<false>(dh, left, stage.walk.q, k * 2, 0, lane);
    }
    store_blocks<kChunk>(of_values<kChunk>(p.dwritten, number, place), warp * 2, 0, du, lane);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      Fragment left;
      set_left(left, du[k]);
      add_product<false>(dh, left, stage.walk.erasing, k * 2, 0, lane);
    }
  }
  arrive(p.end, sizes, place, dh, warp, lane);
}
