// Ahead through the chunks: with h the states before one, its steps write u = solver (v - entered k h) along their keys,
//     y = entered q h + weights u,      h' = across h + left k^T u.
// On the way to the gradients (without kOutputs), u and h are kept, and there is no y.
#include "walks.cuh"

struct AheadArguments {
  TensorMap of_q, of_k, of_v, of_y;
  Sizes sizes;
  Keys keys;
  Sequences v;
  const Stored *solver, *weights;  // (row, head, chunk, step, step)
  Stored* written;     // u, (row, head, chunk, value, step), and
  Stored* states;      // before each chunk, (row, head, chunk, value, key), where they are kept
  const float* start;  // before the launch's chunks, (row, head, key, value), or null for zero
  Stored* y;           // where they are not
  Index y_row, y_time, y_head;
  float* end;  // or null
};

struct ForGradients {};
struct ForOutputs {
  Queries q;
  Tile<kChunk, kChunk> weights;
};
struct AheadStage : ChoiceOf<kOutputs, ForOutputs, ForGradients>::Type {
  WalkKeys keys;
  Operand<kChunk, kValueTile> v;
  Tile<kChunk, kChunk> solver;
  Numbers numbers;
};
constexpr int kStageBytes = sizeof(WalkKeys) + sizeof(AheadStage::v) + sizeof(AheadStage::solver) + sizeof(Numbers) +
                            (kOutputs ? sizeof(ForOutputs) : 0);

// Outputs on their way: with kWide a tile (step, value), beside that which the copying unit reads; else one of each warp,
// (value, step).
struct Outgoing {
  Operand<kChunk, kValueTile> outputs[2];
};
struct Turning {
  Tile<16, kChunk> outputs[kWarps];
};
struct NotWritten {};

struct AheadShared : ChoiceOf<kOutputs, ChoiceOf<kWide, Outgoing, Turning>::Type, NotWritten>::Type {
  Stages<AheadStage, kStageBytes> chunks;
};

EXPORTED_SIZE(ahead_shared_bytes, AheadShared)

template <typename Stage>
INLINE void fetch_chunk(Stage& stage, const AheadArguments& p, const WalkPlace& place, int chunk, CopyBarrier& full, int thread) {
  const ChunkPlace at(p.sizes, place, chunk);
  const Index square = at.number * (kChunk * kChunk);
  const int first = place.value_tile * kValueTile;
  fetch_keys(stage.keys, p.keys, p.of_k, at, full, thread);
  fetch<kThreads>(stage.v, p.of_v, p.v, at.row, at.time, place.head, first, at.rows, p.sizes.value - first, full, thread);
  fetch_matrix<kThreads>(stage.solver, p.solver + square, full, thread);
  fetch_decays(stage.numbers, p.keys, at, full, thread);
  if constexpr (kOutputs) {
    fetch_q(stage.q, p.keys, p.of_q, at, full, thread);
    fetch_matrix<kThreads>(stage.weights, p.weights + square, full, thread);
  }
}

// Two adjacent numbers, word i of a fragment.
INLINE void write_pair(Stored* to, const Fragment& from, int i) {
  if constexpr (kHalf) {
    *reinterpret_cast<unsigned*>(to) = from.at[0][i];
  } else {
    Words words;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = from.at[plane][i];
    *reinterpret_cast<Pack<float, 2>*>(to) = Pack<float, 2>{{words.low(), words.high()}};
  }
}

// y^T (16 values, steps) of a warp, as fragments, to y.
INLINE void write_turned(const AheadArguments& p, const WalkPlace& place, Tile<16, kChunk>& room,
                         const Fragment (&sums)[kRowBlocks], int chunk, int warp, int lane) {
  const Seat seat(lane);
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Words words;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = sums[n / 2].at[plane][n % 2 * 2 + i];
      room.set(i, n, seat, words);
    }
  synchronize_warp();
  const int time = chunk * kChunk, rows = p.sizes.length - time - seat.row;
  const int columns = p.sizes.value - place.value_tile * kValueTile - warp * 16 - seat.column;
  Stored* row = p.y + place.row * p.y_row + Index(time + seat.row) * p.y_time + place.head * p.y_head + p.sizes.value - columns;
  const Index next = 8 * p.y_time;
#pragma unroll
  for (int n = 0; n < kRowBlocks; ++n) {
    Fragment turned;
    load_blocks<true, true>(turned, room, 0, n * 2, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (n * 16 + half * 8 < rows) {
        if (columns > 0) write_pair(row, turned, half * 2);
        if (columns > 8) write_pair(row + 8, turned, half * 2 + 1);
      }
      row += next;
    }
  }
  synchronize_warp();
}

// The same to a tile (step, value), with kWide.
INLINE void keep_turned(Operand<kChunk, kValueTile>& to, const Fragment (&sums)[kRowBlocks], int warp, int lane) {
  const int matrix = lane / 8;
#pragma unroll
  for (int n = 0; n < kRowBlocks; ++n) {
    const unsigned short* row = to.row(0, n * 2 + matrix / 2, warp * 2 + matrix % 2, lane % 8);
    store_transposed(const_cast<unsigned short*>(row), sums[n].at[0]);
  }
}

INLINE Pack<float, 2> entered_keys(const StepNumbers& numbers, int step) {
  return *reinterpret_cast<const Pack<float, 2>*>(&numbers.entered_k[step]);
}
INLINE Pack<float, 2> entered_keys(const ChannelNumbers&, int) { return {{1.0f, 1.0f}}; }

// v^T (16 values, steps) becomes (v - entered k h)^T, `read` being (k h)^T of k as it is or as it enters.
INLINE void find_errors(Fragment (&v)[kRowBlocks], const Sums<kRowBlocks>& read, const Numbers& numbers, const Seat& seat) {
#pragma unroll
  for (int n = 0; n < kRowBlocks * 2; ++n) {
    const Pack<float, 2> factors = entered_keys(numbers, n * 8 + seat.column);
#pragma unroll
    for (int i = n % 2 * 2; i < n % 2 * 2 + 2; ++i) {
      const float* found = &read[n / 2][n % 2][i % 2 * 2];
      Words words;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) words.plane[plane] = v[n / 2].at[plane][i];
      words = split(words.low() - factors.at[0] * found[0], words.high() - factors.at[1] * found[1]);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) v[n / 2].at[plane][i] = words.plane[plane];
    }
  }
}

// With kWide, what the warp does that does not walk: it has chunks fetched, and outputs written.
template <typename Shared, typename Fetch>
INLINE void serve(Shared& shared, const AheadArguments& p, const WalkPlace& place, int thread, Fetch fetch) {
#pragma unroll 1
  for (int passed = 0; passed <= p.sizes.count; ++passed) {
    if constexpr (kOutputs) wait_for_stores();
    synchronize_block();
    if (passed == 0) continue;
    if constexpr (kOutputs) {
      if (thread == kWalkers) {
        const int time = (p.sizes.first + passed - 1) * kChunk, first = place.value_tile * kValueTile;
        store_box(p.of_y, &shared.outputs[passed % 2], first, place.head, time, place.row);
      }
    }
    shared.chunks.start(passed - 1 + kStages, p.sizes.count, thread, fetch);
  }
  if constexpr (kOutputs) wait_for_stores();
}

template <typename Shared>
INLINE void walk(Shared& shared, const AheadArguments& p) {
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;
  const Sizes& sizes = p.sizes;
  const WalkPlace place(sizes, blockIdx.x);
  const Seat seat(lane);
  const auto fetch = [&](AheadStage& stage, CopyBarrier& full, int passed) {
    fetch_chunk(stage, p, place, sizes.first + passed, full, thread);
  };
  shared.chunks.begin(sizes.count, thread, fetch);
  if constexpr (kWide) {
    static_assert(kStages > 1, "a stage is left when the next chunk is under way");
    if (warp == kWarps) {
      serve(shared, p, place, thread, fetch);
      return;
    }
  }
  States h;
  Fragment before[kKey / 16], outputs[kRowBlocks] = {};
  set_out(h, p.start, sizes, place, warp, lane);
  // The last chunk's outputs are written while products of the next are under way.
  const auto finish_outputs = [&](int passed) {
    if constexpr (kOutputs && kWide) keep_turned(shared.outputs[passed % 2], outputs, warp, lane);
    else if constexpr (kOutputs) {
      if (passed > 0) write_turned(p, place, shared.outputs[warp], outputs, sizes.first + passed - 1, warp, lane);
    }
    share_with_server();
  };
  const auto enter = [&](int passed) {
    const auto& stage = shared.chunks.arrive(passed);
    if constexpr (!kOutputs) {
      store_blocks<kKey>(of_values<kKey>(p.states, place.number(sizes, sizes.first + passed), place), warp * 2, 0, h, lane);
    }
    set_lefts(before, h);
    decay(h, stage.numbers, lane);
  };
  if constexpr (kWide) enter(0);
#pragma unroll 1
  for (int passed = 0; passed < sizes.count; ++passed) {
    if constexpr (!kWide) enter(passed);
    const auto& stage = shared.chunks.at[passed % kStages];
    const Index number = place.number(sizes, sizes.first + passed);
    Sums<kRowBlocks> read, u, y;
    Fragment errors[kRowBlocks], writes[kRowBlocks], left[kRowBlocks];
    add_all<true, true>(read, before, stage.keys.k, lane);
    finish_outputs(passed);
#pragma unroll
    for (int k = 0; k < kRowBlocks; ++k) load_left_transposed(errors[k], stage.v, k * 2, warp * 2, lane);
    if constexpr (kOutputs) add_some<true, 0, kKey / 32, true>(y, before, stage.q, lane);
    wait_for<kOutputs ? 1 : 0>(read);
    find_errors(errors, read, stage.numbers, seat);
    add_all<true, true>(u, errors, stage.solver, lane);
    if constexpr (kOutputs) add_some<true, kKey / 32, kKey / 16, false>(y, before, stage.q, lane);
    wait_for<kOutputs ? 1 : 0>(u);
    release(errors);
    if constexpr (kOutputs) set_lefts(writes, u);
    else store_blocks<kChunk>(of_values<kChunk>(p.written, number, place), warp * 2, 0, u, lane);
    scale_left(u, stage.numbers, lane);
    set_lefts(left, u);
    add_all<false>(h, left, stage.keys.left_k(), lane);
    if constexpr (kOutputs) {
      scale_entered(y, stage.numbers, lane);
      add_all<true>(y, writes, stage.weights, lane);
    }
    wait_for<kOutputs ? 1 : 0>(h);
    release(before);
    release(left);
    shared.chunks.leave(passed, sizes.count, thread, fetch);
    if (kWide && passed + 1 < sizes.count) enter(passed + 1);
    if constexpr (kOutputs) {
      wait_for<0>(y);
      release(writes);
      set_lefts(outputs, y);
    }
  }
  finish_outputs(sizes.count);
  arrive_at(p.end, sizes, place, h, warp, lane);
}

KERNEL void __launch_bounds__(kThreads, 1) keelback_ahead(const GRID_CONSTANT AheadArguments p) {
  SHARED_MEMORY(AheadShared, shared);
  walk(shared, p);
}
