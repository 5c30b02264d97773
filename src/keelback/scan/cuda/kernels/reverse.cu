// The gradients. A block runs backward through a span of one row, tile by tile, and within a tile
// `kSteps` steps at a time: it recomputes their states and decays from a kept state into registers, then
// steps back through them with the adjoint g_t = C_t dy_t + 2^(delta_{t+1} A) g_{t+1}.
#include "letters.cuh"
#include "recurrence.cuh"

struct ReverseArguments {
  Sizes sizes;
  Sequences u, delta, z, dy;
  StateSequences B, C;
  Resets reset;
  const Real *A, *D, *bias;
  const Real* initial;      // (sequence, channel, state), or null
  const Real* final;        // the same: the gradient of the last state
  const Real *states, *adjoints, *totals;  // what the spans pass on, where there are several; null: by letters
  TileStates tile_states, elapsed;
  Stored *du, *ddelta, *dz;  // (sequence, time, channel)
  void *dB, *dC;            // (partial, sequence, time, group, state): Stored with kNarrowGrouped, else Real
  Index partial;            // elements from one block's sums of dB and dC to the next block's, or 0
  Real* dA;                 // with kAddParameters (replica, channel, state), else (sequence, span, ...)
  Real *dD, *dbias;         // the same without the states
  Real* dinitial;           // (sequence, channel, state), or null
};

constexpr int kParts = kThreads / 32 * (kMatrixSums ? 2 : 1);
constexpr int kSums = kHasZ ? 4 : 2;
constexpr int kMoverRows = kRowStep < kTile ? kRowStep : kTile;

// The sums over a channel's states: of g B, of the gradient of the decay times A, and (with a gate) the output.
using StateSums = Pack<Real, kSums>;

// Rows are padded so that the lanes of a warp write to different banks.
using SumRows = ChannelRows<StateSums, kChannels + 8 / kSums>;

// A step of a channel: its size, its size times u, the gradient of the output before the gate, and u.
using ReverseStep = Pack<Real, 4>;
using ReverseRows = ChannelRows<ReverseStep, kChannels>;

// A part of dB, dC of a tile. Halves of the rows trade places in odd steps, and the next part starts on
// another bank: so the lanes of a warp meet in none when they store what the matrix unit leaves them with.
struct GroupedRows {
  static constexpr int kTrade = kMatrixSums && kPaddedStates >= 8 ? 8 : 0;
  union {
    Real at[kTile][2 * kPaddedStates];
    StateReals packs[kTile][2 * kStatePacksPerStep];
  };
  Real padding[kMatrixSums ? 16 : kStateVector];

  INLINE static int column(int step, int value) { return value ^ (step % 2 * kTrade); }
};

struct ReverseShared {
  ReverseRows steps;
  StateRows B, C;
  StateVector starts[kTile / kSteps][kThreads];
  StateVector span_start[kThreads];
  alignas(16) alignas(StateSums) SumRows sums;
  GroupedRows grouped[kParts];  // each warp's or half warp's part
  bool reset[kTile];
};

EXPORTED_SIZE(reverse_shared_bytes, ReverseShared)

// The inputs of a tile, on their way to shared memory: a thread's share.
struct ReverseLoader {
  ChannelTile u, delta, dy, z;
  StateTile B, C;

  INLINE void load(const ReverseArguments& p, const Place& place, const TileAddress& at, int steps, const Mover& mover,
                   int thread) {
    u.load([&](int i) { return at.of(p.u, i, place, mover); }, steps, mover);
    delta.load_delta([&](int i) { return at.of_delta(p.delta, i, place, mover); }, steps, mover);
    dy.load([&](int i) { return at.of(p.dy, i, place, mover); }, steps, mover);
    if constexpr (kHasZ) z.load([&](int i) { return at.of(p.z, i, place, mover); }, steps, mover);
    B.load(place.at(p.B) + at.start * p.B.time, p.B.time, steps, thread);
    C.load(place.at(p.C) + at.start * p.C.time, p.C.time, steps, thread);
  }

  INLINE void store(ReverseShared& shared, int steps, const ChannelReals& bias, const Mover& mover, int thread) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (mover.step(i) >= kTile) break;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Real size = step_size(delta.packs[i].at(v), bias.at[v], mover.moves(i, steps));
        const Real input = u.packs[i].at(v);
        Real gradient = dy.packs[i].at(v);
        if constexpr (kHasZ) gradient *= z.packs[i].at(v) * sigmoid(z.packs[i].at(v));
        shared.steps.at[mover.step(i)][ReverseRows::slot(mover.column + v)] = {size, size * input, gradient, input};
      }
    }
    B.store(shared.B, thread);
    C.store(shared.C, thread);
  }
};

// Starts to bring a tile closer. Where it is short, it reaches into the next one.
INLINE void prefetch_inputs(const ReverseArguments& p, const Place& place, const TileAddress& at,
                            const Mover& mover) {
  ChannelTile::prefetch([&](int i) { return at.of(p.u, i, place, mover); }, mover);
  ChannelTile::prefetch([&](int i) { return at.of(p.dy, i, place, mover); }, mover);
  if constexpr (!kSharedDelta) ChannelTile::prefetch([&](int i) { return at.of(p.delta, i, place, mover); }, mover);
  if constexpr (kHasZ) ChannelTile::prefetch([&](int i) { return at.of(p.z, i, place, mover); }, mover);
}

// One step forward, from the inputs in shared memory: the decays; the state in `h` moves on.
INLINE void advance_at(Real (&h)[kStatesPerThread], Real (&decays)[kStatesPerThread], const ReverseShared& shared,
                       int step, int slot, const Seat& seat, const Real (&rates)[kStatesPerThread]) {
  const StepPair pair = *reinterpret_cast<const StepPair*>(&shared.steps.at[step][slot]);
  const StateVector b = shared.B.of(step, seat);
  const bool reset = kHasReset && shared.reset[step];
  Real inputs[kStatesPerThread];
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) {
    decays[j] = power_of_two(pair.at[0] * rates[j]);
    inputs[j] = pair.at[1] * b.at[j];
  }
  advance(h, decays, inputs, reset);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) decays[j] = reset ? Real(0) : decays[j];
}

// The state at the start of a tile: what the sweep kept, and the time since the start of the span.
struct TileStart {
  Real kept[kStatesPerThread], elapsed;

  INLINE void load(const ReverseArguments& p, const Place& place, const TileCut& cut, int tile, const Seat& seat) {
    elapsed = endless<Real>();
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) kept[j] = Real(0);
    if (tile <= 0) return;
    read_tile_state(p.tile_states, place, p.sizes, cut, tile, seat, kept);
    if (kSpanned && seat.active)
      elapsed = read_rows(tile_state_at(p.elapsed, place, p.sizes, cut, tile, seat.channel), p.sizes.channels);
  }

  // Where there is one span, the sweep began with the true state.
  INLINE void find(Real (&h)[kStatesPerThread], int tile, const StateVector& span_start,
                   const Real (&rates)[kStatesPerThread]) const {
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) h[j] = tile == 0 ? span_start.at[j] : kept[j];
    if (tile == 0 || !kSpanned) return;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) h[j] += decayed(decay_over(elapsed, rates[j]), span_start.at[j]);
  }
};

// What a thread carries backward through its span.
struct Adjoint {
  Real carried[kStatesPerThread];  // the gradient of the state, as far as later steps account for it
  Real dA[kStatesPerThread];
};

// A warp's sums over its channels, on their way to `grouped`: by shuffles, a step at a time.
struct ShuffledSums {
  INLINE explicit ShuffledSums(const Seat&) {}

  // Takes this thread's parts of dB and dC of a step.
  INLINE void add(ReverseShared& shared, int first, int i, const Real (&dB)[kStatesPerThread],
                  const Real (&dC)[kStatesPerThread], const Seat& seat, int warp) {
    constexpr int kValues = 2 * kStatesPerThread;
    Real values[kValues];
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) values[j] = dB[j], values[kStatesPerThread + j] = dC[j];
    sum_over_channels(values, seat.lane);
#pragma unroll
    for (int left = 0; left < (kValues + kChannelLanes - 1) / kChannelLanes; ++left) {
      const int value = left * kChannelLanes + seat.channel_lane;
      const int state = seat.state_lane * kStatesPerThread + value % kStatesPerThread;
      if (value < kValues)
        shared.grouped[warp].at[first + i][value / kStatesPerThread * kPaddedStates + state] = values[left];
    }
  }
};

// The same by the matrix unit, which takes lane % 4 and two values of a thread together. The left matrix
// has a row for each state lane, half of the channels, and parity of a thread's states; its columns are the
// channels of that half, first dB, then dC. The right one puts the sums of dB and dC into two columns, so
// that the result has room for four pairs of states: kStepsOfMatrix steps.
struct MatrixSums {
  static constexpr int kPairs = (kStatesPerThread + 1) / 2, kStepsOfMatrix = 4 / kPairs;
  float ones[8];  // ones[n]: 1 in the lanes that hold column n of the right matrix
  float sums[4];

  INLINE explicit MatrixSums(const Seat& seat) {
#pragma unroll
    for (int column = 0; column < 8; ++column) ones[column] = opaque(seat.lane / 4 == column ? 1.0f : 0.0f);
  }

  INLINE void add(ReverseShared& shared, int first, int i, const Real (&dB)[kStatesPerThread],
                  const Real (&dC)[kStatesPerThread], const Seat& seat, int warp) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const int odd = 2 * pair + 1 < kStatesPerThread ? 2 * pair + 1 : 0;
      const bool has_odd = odd != 0;
      const float values[4] = {dB[2 * pair], has_odd ? dB[odd] : 0.0f, dC[2 * pair], has_odd ? dC[odd] : 0.0f};
      const int slot = i % kStepsOfMatrix * kPairs + pair;
      const bool fresh = i % kStepsOfMatrix == kStepsOfMatrix - 1 && pair == 0;
      multiply_matrices(sums, values, ones[2 * slot], ones[2 * slot + 1], fresh);
    }
    if (i % kStepsOfMatrix == 0) store(shared, first + i, seat, warp);
  }

  INLINE void store(ReverseShared& shared, int first, const Seat& seat, int warp) {
    const int row = seat.lane / 4, slot = seat.lane % 4, step = first + slot / kPairs;
    const int state = row / 2 * kStatesPerThread + slot % kPairs * 2;
    Real(&to)[2 * kPaddedStates] = shared.grouped[2 * warp + row % 2].at[step];
    // `first` is even: the parity of the step is the thread's own.
    const int of_B = GroupedRows::column(slot / kPairs, state);
    const int of_C = GroupedRows::column(slot / kPairs, kPaddedStates + state);
    if constexpr (kStatesPerThread > 1) {
      *reinterpret_cast<Pack<float, 2>*>(&to[of_B]) = {sums[0], sums[2]};
      *reinterpret_cast<Pack<float, 2>*>(&to[of_C]) = {sums[1], sums[3]};
    } else {
      to[of_B] = sums[0];
      to[of_C] = sums[1];
    }
  }
};

template <bool kMatrix>
struct ChannelSums : ShuffledSums {
  using ShuffledSums::ShuffledSums;
};
template <>
struct ChannelSums<true> : MatrixSums {
  using MatrixSums::MatrixSums;
};

// As many steps as a sum over the states' lanes leaves one of to each lane.
constexpr int kSumSteps = kStateLanes < kSteps ? kStateLanes : kSteps;

// The sums over the states of kSumSteps steps from `first` on: lane `state_lane` stores those of one step.
INLINE void store_sums(ReverseShared& shared, int first, Real (&by_input)[kSumSteps], Real (&by_decay)[kSumSteps],
                       Real (&output)[kSumSteps], const Seat& seat) {
  sum_over_states(by_input, seat.lane);
  sum_over_states(by_decay, seat.lane);
  if constexpr (kHasZ) sum_over_states(output, seat.lane);
  StateSums sums;
  sums.at[0] = by_input[0];
  sums.at[1] = by_decay[0];
  if constexpr (kHasZ) sums.at[2] = output[0];
  if (seat.state_lane < kSumSteps) shared.sums.at[first + seat.state_lane][SumRows::slot(seat.channel)] = sums;
}

// Steps `first` .. `first` + kSteps - 1, backward.
INLINE void run_back(ReverseShared& shared, Adjoint& adjoint, ChannelSums<kMatrixSums>& channel_sums, int first,
                     const Seat& seat, int warp, const Real (&rates)[kStatesPerThread],
                     const Real (&start)[kStatesPerThread]) {
  const int slot = ReverseRows::slot(seat.channel);
  Real h[kSteps + 1][kStatesPerThread], decays[kSteps][kStatesPerThread];
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) h[0][j] = start[j];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) h[i + 1][j] = h[i][j];
    advance_at(h[i + 1], decays[i], shared, first + i, slot, seat, rates);
  }

  Real by_input[kSumSteps], by_decay[kSumSteps], output[kSumSteps];
#pragma unroll
  for (int i = kSteps - 1; i >= 0; --i) {
    const int step = first + i, k = i % kSumSteps;
    const StepPair pair = *reinterpret_cast<const StepPair*>(&shared.steps.at[step][slot]);
    const Real size = pair.at[0], input = pair.at[1], dy = shared.steps.at[step][slot].at[2];
    const StateVector b = shared.B.of(step, seat), c = shared.C.of(step, seat);
    const bool reset = kHasReset && shared.reset[step];
    Real dB[kStatesPerThread], dC[kStatesPerThread];  // this channel's part
    by_input[k] = by_decay[k] = output[k] = Real(0);
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) {
      const Real g = adjoint.carried[j] + c.at[j] * dy;
      dB[j] = g * input;
      dC[j] = dy * h[i + 1][j];
      by_input[k] += g * b.at[j];
      adjoint.carried[j] = decays[i][j] * g;
      const Real by_exponent = adjoint.carried[j] * (reset ? Real(0) : h[i][j]);
      by_decay[k] += by_exponent * rates[j];
      adjoint.dA[j] += by_exponent * size;
      if constexpr (kHasZ) output[k] += c.at[j] * h[i + 1][j];
    }
    channel_sums.add(shared, first, i, dB, dC, seat, warp);
    if (k == 0) store_sums(shared, step, by_input, by_decay, output, seat);
  }
}

// The parameters' gradients, as far as this thread's channels and steps go.
struct ParameterGradients {
  ChannelReals dD, dbias;
};

// What the gradients need once more of the inputs: loaded again, since registers are scarcer than time.
struct GradientLoad {
  ChannelTile delta, dy, z;

  INLINE void load(const ReverseArguments& p, const Place& place, const TileAddress& at, int steps,
                   const Mover& mover) {
    if constexpr (kSoftplus)
      delta.load_delta([&](int i) { return at.of_delta(p.delta, i, place, mover); }, steps, mover);
    if constexpr (kHasZ) {
      dy.load([&](int i) { return at.of(p.dy, i, place, mover); }, steps, mover);
      z.load([&](int i) { return at.of(p.z, i, place, mover); }, steps, mover);
    }
  }
};

// The gradients of the sequences (time, channel), from the sums over the states.
INLINE void write_gradients(const ReverseShared& shared, const ReverseArguments& p, const TileAddress& at, int steps,
                            const GradientLoad& loaded, const ChannelReals& bias, const ChannelReals& skip,
                            const Mover& mover, ParameterGradients& totals) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!mover.moves(i, steps)) continue;
    ChannelReals du, ddelta, dz;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const int channel = mover.column + v;
      const ReverseStep inputs = shared.steps.at[mover.step(i)][ReverseRows::slot(channel)];
      const StateSums sums = shared.sums.at[mover.step(i)][SumRows::slot(channel)];
      const Real size = inputs.at[0], dy = inputs.at[2], u = inputs.at[3];
      du.at[v] = size * sums.at[0] + skip.at[v] * dy;
      ddelta.at[v] = u * sums.at[0] + Real(kLogOf2) * sums.at[1];
      if constexpr (kSoftplus) ddelta.at[v] *= sigmoid(loaded.delta.packs[i].at(v) + bias.at[v]);
      totals.dD.at[v] += dy * u;
      totals.dbias.at[v] += ddelta.at[v];
      if constexpr (kHasZ) {
        const Real gate = loaded.z.packs[i].at(v), open = sigmoid(gate);
        const Real output = sums.at[2] + skip.at[v] * u;
        dz.at[v] = loaded.dy.packs[i].at(v) * output * open * (Real(1) + gate * (Real(1) - open));
      }
    }
    store_pack(p.du + at.dense[i], du);
    store_pack(p.ddelta + at.dense[i], ddelta);
    if constexpr (kHasZ) store_pack(p.dz + at.dense[i], dz);
  }
}

// The sums over the block's channels join those of the group's other blocks.
INLINE void write_grouped(const ReverseShared& shared, const ReverseArguments& p, const Place& place, int start,
                          int steps, int thread) {
  constexpr int kPerStep = 2 * kStatePacksPerStep;
  const Index offset = place.block_in_group * p.partial +
                       ((place.sequence * p.sizes.length + start) * p.sizes.groups + place.group) * kStates;
  const Index step_stride = Index(p.sizes.groups) * kStates;
#pragma unroll 1
  for (int index = thread; index < kTile * kPerStep; index += kThreads) {
    const int step = index / kPerStep, pack = index % kPerStep;
    const int state = pack % kStatePacksPerStep * kStateVector;
    if (step >= steps || state >= kStates) continue;
    const int place_of_pack = GroupedRows::column(step, pack * kStateVector) / kStateVector;
    StateReals sum = {};
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const StateReals part = shared.grouped[i].packs[step][place_of_pack];
#pragma unroll
      for (int v = 0; v < kStateVector; ++v) sum.at[v] += part.at[v];
    }
    void* tensor = pack < kStatePacksPerStep ? p.dB : p.dC;
    const Index at = offset + step * step_stride + state;
    Real* to = static_cast<Real*>(tensor) + at;
    if constexpr (kAddGrouped) {
      if constexpr (kStateVector == 4) add_to_memory(to, sum.at[0], sum.at[1], sum.at[2], sum.at[3]);
      else add_to_memory(to, sum.at[0]);
    } else if constexpr (kNarrowGrouped) {
      store_pack(static_cast<Stored*>(tensor) + at, sum);
    } else {
      *reinterpret_cast<StateReals*>(to) = sum;
    }
  }
}

// Adds up a parameter's gradient over the threads that move the same channels.
INLINE void write_parameter(Real* to, Real* scratch, const ChannelReals& part, const Place& place,
                            const Mover& mover, int thread) {
  synchronize_block();
#pragma unroll
  for (int v = 0; v < kVector; ++v)
    if (mover.row < kMoverRows) scratch[mover.row * kChannels + mover.column + v] = part.at[v];
  synchronize_block();
  for (int channel = thread; channel < place.channels; channel += kThreads) {
    Real sum = Real(0);
    for (int row = 0; row < kMoverRows; ++row) sum += scratch[row * kChannels + channel];
    if constexpr (kAddParameters) add_to_memory(&to[place.first_channel + channel], sum);
    else to[place.first_channel + channel] = sum;
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_reverse(const ReverseArguments p) {
  SHARED_MEMORY(ReverseShared, shared);
  const int thread = threadIdx.x, warp = thread / 32;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(place, thread);
  const Mover mover(place, thread);
  const TileCut cut(place);
  const ChannelReals bias = mover.parameter(p.bias, place, p.sizes);
  const ChannelReals skip = mover.parameter(p.D, place, p.sizes);

  Real rates[kStatesPerThread];
  read_rates(p.A, place, p.sizes, seat, rates);
  Adjoint adjoint;
  read_states(part(p.final, place.sequence, p.sizes), place, seat, adjoint.carried);
  const bool by_letter = kSpanned && p.states == nullptr;
  if constexpr (kSpanned) {
    const Passed passed = by_letter ? Passed(letter_to(place.span, p.tile_states, place, p.sizes), place, p.sizes)
                                    : Passed(p.adjoints, p.totals, place, p.sizes);
    const int after = p.sizes.spans - 1;
    receive(adjoint.carried, passed, after, -1, after - place.span, seat, rates);
  }
  StateVector& span_start = shared.span_start[thread];
  read_states(part(p.initial, place.sequence, p.sizes), place, seat, span_start.at);
  if constexpr (kSpanned) {
    const Passed passed = by_letter ? Passed(letter_to(place.span, p.tile_states, place, p.sizes), place, p.sizes)
                                    : Passed(p.states, p.totals, place, p.sizes);
    receive(span_start.at, passed, 0, 1, place.span, seat, rates);
  }
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) adjoint.dA[j] = Real(0);
  ParameterGradients totals = {};
  ChannelSums<kMatrixSums> channel_sums(seat);
  const int slot = ReverseRows::slot(seat.channel);

  // A tile's operands come from the second-level cache while the gradients of the one after it are written:
  // then no state or decay occupies the registers.
  ReverseLoader next;
  TileStart next_start;
  auto load = [&](int index) {
    const int start = index < 0 ? place.start : cut.start_of(index);
    next.load(p, place, TileAddress(place, p.sizes, mover, start), index < 0 ? 0 : cut.steps_of(index), mover, thread);
    next_start.load(p, place, cut, index, seat);
  };
  load(cut.count - 1);
#pragma unroll 1
  for (int index = cut.count - 1; index >= 0; --index) {
    const int steps = cut.steps_of(index);
    Real h[kStatesPerThread], decays[kStatesPerThread];
    next_start.find(h, index, span_start, rates);
    next.store(shared, steps, bias, mover, thread);
    load_resets(place, p.reset, cut.start_of(index), steps, thread, shared.reset);
    if (index > 0) prefetch_inputs(p, place, TileAddress(place, p.sizes, mover, cut.start_of(index - 1)), mover);
    if (index > 1) prefetch_tile_state(p.tile_states, place, p.sizes, cut, index - 1, seat);
    synchronize_block();

#pragma unroll 1
    for (int part = 0; part < kTile / kSteps; ++part) {
      StateVector kept;
#pragma unroll
      for (int j = 0; j < kStatesPerThread; ++j) kept.at[j] = h[j];
      shared.starts[part][thread] = kept;
      if (part == kTile / kSteps - 1) break;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) advance_at(h, decays, shared, part * kSteps + i, slot, seat, rates);
    }
#pragma unroll 1
    for (int part = kTile / kSteps - 1; part >= 0; --part) {
      const StateVector kept = shared.starts[part][thread];
      run_back(shared, adjoint, channel_sums, part * kSteps, seat, warp, rates, kept.at);
    }
    const TileAddress at(place, p.sizes, mover, cut.start_of(index));
    GradientLoad loaded;
    loaded.load(p, place, at, steps, mover);
    load(index - 1);
    synchronize_block();
    write_gradients(shared, p, at, steps, loaded, bias, skip, mover, totals);
    write_grouped(shared, p, place, at.start, steps, thread);
    synchronize_block();
  }

  const Index part_of_parameters = kAddParameters ? place.replica : place.sequence_span;
  Real* dA = part(p.dA, part_of_parameters, p.sizes);
  if constexpr (kAddParameters) add_states(dA, place, seat, adjoint.dA);
  else write_states(dA, place, seat, adjoint.dA);
  if (p.dinitial != nullptr && place.start == 0)
    write_states(part(p.dinitial, place.sequence, p.sizes), place, seat, adjoint.carried);
  Real* scratch = &shared.steps.at[0][0].at[0];
  const Index channels = part_of_parameters * p.sizes.channels;
  write_parameter(p.dD + channels, scratch, totals.dD, place, mover, thread);
  write_parameter(p.dbias + channels, scratch, totals.dbias, place, mover, thread);
}
