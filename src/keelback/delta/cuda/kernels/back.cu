// Back through the chunks: with dh the gradient of the states after one, that of what its steps write is
//     du = weights^T dy + left k dh,
// and with z = T^T du, what its steps would have had to write,
//     dh' = across dh + entered q^T dy - entered k^T (beta z)
// that of the states before it. z and dh are kept for the gradients of the operands.
#include "walks.cuh"

struct BackArguments {
  TensorMap of_q, of_k, of_outputs;
  Sizes sizes;
  Keys keys;
  Sequences dy;
  const Stored *inverse, *weights;  // T and the weights, (row, head, chunk, step, step)
  Stored* solved;      // z, (row, head, chunk, value, step)
  Stored* adjoints;    // dh after each chunk, (row, head, chunk, value, key)
  const float* start;  // the gradient of the last states (row, head, key, value), or null for zero
  float* end;          // the gradient of the initial states, or null
};

struct BackStage {
  WalkKeys keys;
  Queries q;
  Operand<kChunk, kValueTile> dy;
  Tile<kChunk, kChunk> inverse, weights;
  Numbers numbers;
};
constexpr int kStageBytes =
    sizeof(WalkKeys) + sizeof(Queries) + sizeof(BackStage::dy) + 2 * sizeof(BackStage::inverse) + sizeof(Numbers);

struct BackShared {
  Stages<BackStage, kStageBytes> chunks;
};

EXPORTED_SIZE(back_shared_bytes, BackShared)

INLINE void fetch_chunk(BackStage& stage, const BackArguments& p, const WalkPlace& place, int chunk, CopyBarrier& full, int thread) {
  const ChunkPlace at(p.sizes, place, chunk);
  const Index square = at.number * (kChunk * kChunk);
  const int first = place.value_tile * kValueTile;
  fetch<kThreads>(stage.dy, p.of_outputs, p.dy, at.row, at.time, place.head, first, at.rows, p.sizes.value - first, full, thread);
  fetch_matrix<kThreads>(stage.weights, p.weights + square, full, thread);
  fetch_keys(stage.keys, p.keys, p.of_k, at, full, thread);
  fetch_decays(stage.numbers, p.keys, at, full, thread);
  fetch_q(stage.q, p.keys, p.of_q, at, full, thread);
  fetch_matrix<kThreads>(stage.inverse, p.inverse + square, full, thread);
}

// du + left k dh, `read` being k dh.
INLINE void add_left(Sums<kRowBlocks>& du, const Sums<kRowBlocks>& read, const StepNumbers& numbers, const Seat& seat) {
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n) {
    const auto pair = *reinterpret_cast<const Pack<float, 2>*>(&numbers.left_k[n * 8 + seat.column]);
#pragma unroll
    for (int i = 0; i < 4; ++i) du[n / 2][n % 2][i] += pair.at[i % 2] * read[n / 2][n % 2][i];
  }
}
INLINE void add_left(Sums<kRowBlocks>& du, const Sums<kRowBlocks>& read, const ChannelNumbers&, const Seat&) {
#pragma unroll
  for (int i = 0; i < kRowBlocks * 8; ++i) du[i / 8][i / 4 % 2][i % 4] += read[i / 8][i / 4 % 2][i % 4];
}

// dy^T times what q is multiplied by, if it does not enter the chunk yet.
INLINE void scale_outputs(Fragment& dy, const StepNumbers& numbers, int k, const Seat& seat) {
  scale_columns(dy, numbers.entered_q, k, seat);
}
INLINE void scale_outputs(Fragment&, const ChannelNumbers&, int, const Seat&) {}

// -beta z, times what k is multiplied by, likewise.
INLINE void scale_erased(Sums<kRowBlocks>& solved, const StepNumbers& numbers, int lane) {
  scale_columns_of(solved, numbers.entered_k, lane);
  scale_columns_of(solved, numbers.beta, lane);
  scale_rows_of(solved, -1.0f, -1.0f);
}
INLINE void scale_erased(Sums<kRowBlocks>& solved, const ChannelNumbers& numbers, int lane) {
  scale_columns_of(solved, numbers.beta, lane);
  scale_rows_of(solved, -1.0f, -1.0f);
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_back(const GRID_CONSTANT BackArguments p) {
  SHARED_MEMORY(BackShared, shared);
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Sizes& sizes = p.sizes;
  const WalkPlace place(sizes, blockIdx.x);
  const Seat seat(lane);
  const auto fetch_passed = [&](BackStage& stage, CopyBarrier& full, int passed) {
    fetch_chunk(stage, p, place, sizes.chunks - 1 - passed, full, thread);
  };
  shared.chunks.begin(sizes.chunks, thread, fetch_passed);
  if constexpr (kWide) {
    static_assert(kStages > 1, "a stage is left when the next chunk is under way");
    if (warp == kWarps) {
#pragma unroll 1
      for (int passed = 0; passed < sizes.chunks; ++passed) {
        synchronize_block();
        if (passed) shared.chunks.start(passed - 1 + kStages, sizes.chunks, thread, fetch_passed);
      }
      return;
    }
  }
  States dh;
  Fragment after[kKey / 16];
  set_out(dh, p.start, sizes, place, warp, lane);
  const auto enter = [&](int passed) {
    const BackStage& stage = shared.chunks.arrive(passed);
    const Index number = place.number(sizes, sizes.chunks - 1 - passed);
    store_blocks<kKey>(of_values<kKey>(p.adjoints, number, place), warp * 2, 0, dh, lane);
    set_lefts(after, dh);
    decay(dh, stage.numbers, lane);
  };
  if constexpr (kWide) enter(0);
#pragma unroll 1
  for (int passed = 0; passed < sizes.chunks; ++passed) {
    if constexpr (!kWide) enter(passed);
    const BackStage& stage = shared.chunks.at[passed % kStages];
    const Index number = place.number(sizes, sizes.chunks - 1 - passed);
    Sums<kRowBlocks> du, read, solved;
    Fragment outputs[kRowBlocks], entered[kRowBlocks], writes[kRowBlocks], erased[kRowBlocks];
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) load_left_transposed(outputs[k], stage.dy, k * 2, warp * 2, lane);
    add_all<false, true>(du, outputs, stage.weights, lane);
    add_all<true, true>(read, after, stage.keys.left_k(), lane);
    share_with_server();
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) {
      entered[k] = outputs[k];
      scale_outputs(entered[k], stage.numbers, k * 16, seat);
    }
    add_all<false>(dh, entered, stage.q, lane);
    wait_for<1>(du);
    wait_for<1>(read);
    add_left(du, read, stage.numbers, seat);
    set_lefts(writes, du);
    add_all<false, true>(solved, writes, stage.inverse, lane);
    wait_for<0>(solved);
    wait_for<0>(dh);
    release(after);
    release(outputs);
    release(entered);
    release(writes);
    store_blocks<kChunk>(of_values<kChunk>(p.solved, number, place), warp * 2, 0, solved, lane);
    scale_erased(solved, stage.numbers, lane);
    set_lefts(erased, solved);
    add_all<false>(dh, erased, stage.keys.k, lane);
    wait_for<0>(dh);
    release(erased);
    shared.chunks.leave(passed, sizes.chunks, thread, fetch_passed);
    if (kWide && passed + 1 < sizes.chunks) enter(passed + 1);
  }
  arrive_at(p.end, sizes, place, dh, warp, lane);
}
