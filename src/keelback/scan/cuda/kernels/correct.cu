// What the state at the start of a span adds to its outputs. forward_kernel ran every span from zero; here the
// state that it should have begun with runs through the span without inputs, tile by tile, as long as anything
// of it is left: y_t += C_t . 2^(A S_t) h, with the time S_t since the start.
// The first span either began with the true state, or that state is given here.
#include "recurrence.cuh"
#include "series.cuh"
#include "spans.cuh"

struct CorrectArguments {
  Sizes sizes;
  Sequences delta, z;
  StateSequences C;
  Resets reset;
  const Real *A, *bias;
  const Real* initial;          // (sequence, channel, state): the state that the first span lacks, or null
  const Real *states, *totals;  // what the spans pass on
  Stored* y;                    // (sequence, time, channel)
  Real* last;                   // (sequence, channel, state)
};

static_assert(kStateStride == 1, "the lanes of a channel are neighbours");

// States below this are zero, as they are to the special-function unit.
constexpr Real kSmallest = Real(sizeof(Real) == 4 ? 1.1754943508222875e-38 : 2.2250738585072014e-308);

struct CorrectShared {
  StepCells cells;  // the step sizes, then the times, then what is added to the outputs
  PaddedStateRows C;
  Real states[kChannels][kPaddedStates], rates[kChannels][kPaddedStates];
  bool reset[kTile];
  int alive_at;  // the last tile that any state has reached
};

EXPORTED_SIZE(correct_shared_bytes, CorrectShared)

// A thread's share of the next tile, on its way.
struct CorrectLoader {
  Cursor<const Stored> delta_from, z_from = {};
  const Stored* C_from;
  Index C_time;
  ChannelTile delta, y, z;
  StateTile C;

  INLINE CorrectLoader(const CorrectArguments& p, const Place& place, const Mover& mover)
      : delta_from(delta_cursor(p.delta, place, p.sizes, mover, place.start)),
        C_from(place.at(p.C) + place.start * p.C.time),
        C_time(p.C.time) {
    if constexpr (kHasZ) z_from = cursor(p.z, place, p.sizes, mover, place.start);
  }

  // Loads the next tile, of which `steps` steps exist.
  INLINE void load(const Cursor<Stored>& y_from, int steps, const Mover& mover, int thread) {
    delta.load_delta(delta_from, steps, mover);
    delta_from.move(kTile);
    y.load(y_from, steps, mover);
    if constexpr (kHasZ) {
      z.load(z_from, steps, mover);
      z_from.move(kTile);
    }
    C.load(C_from, C_time, steps, thread);
    C_from += kTile * C_time;
  }

  INLINE void store(CorrectShared& shared, const ChannelReals& bias, int steps, const Mover& mover,
                    int thread) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (mover.step(i) >= kTile) break;
      ChannelReals sizes;
#pragma unroll
      for (int v = 0; v < kVector; ++v)
        sizes.at[v] = step_size(delta.packs[i].at(v), bias.at[v], mover.moves(i, steps));
      shared.cells.pack(mover.step(i), mover.column) = sizes;
    }
#pragma unroll
    for (int i = 0; i < kStatePacks; ++i) {
      const int index = thread + i * kThreads, step = index / kStatePacksPerStep;
      StateReals wide;
#pragma unroll
      for (int v = 0; v < kStateVector; ++v) wide.at[v] = C.packs[i].at(v);
      if (step < kTile) shared.C.packs[step][index % kStatePacksPerStep] = wide;
    }
  }
};

// The states of a thread that are left, of its channel: state_lane, state_lane + kStateLanes, ...
struct Remaining {
  Real h[kStatesPerThread], rates[kStatesPerThread];

  // A state that is gone has no rate either: an overflowing decay of nothing is nothing.
  INLINE bool keep(int j, Real state, Real rate) {
    const bool gone = magnitude(state) < kSmallest;
    h[j] = gone ? Real(0) : state;
    rates[j] = gone ? Real(0) : rate;
    return !gone;
  }

  // Returns whether any is left after a time, without a reset in it.
  INLINE bool decay(Real time, bool reset) {
    bool alive = false;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j)
      alive |= keep(j, reset ? Real(0) : h[j] * power_of_two(time * rates[j]), rates[j]);
    return alive;
  }
};

// Takes the state at the start of the span, and writes the last state of the sequence to its place. Returns
// whether there is anything to pass on.
INLINE bool begin(Remaining& to, CorrectShared& shared, const CorrectArguments& p, const Place& place,
                  const Seat& seat) {
  Real rates[kStatesPerThread], h[kStatesPerThread];
  read_rates(p.A, place, p.sizes, seat, rates);
  const Passed passed(p.states, p.totals, place, p.sizes);
  read_states(part(p.initial, place.sequence, p.sizes), place, seat, h);
  receive(h, passed, 0, 1, place.span, seat, rates);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) {
    shared.states[seat.channel][seat.state_lane * kStatesPerThread + j] = h[j];
    shared.rates[seat.channel][seat.state_lane * kStatesPerThread + j] = rates[j];
  }
  if (place.stop == p.sizes.length) {
    receive(h, passed, place.span, 1, 1, seat, rates);
    write_states(part(p.last, place.sequence, p.sizes), place, seat, h);
  }
  synchronize_warp();
  bool alive = false;
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) {
    const int state = j * kStateLanes + seat.state_lane;
    alive |= to.keep(j, shared.states[seat.channel][state], shared.rates[seat.channel][state]);
  }
  return alive;
}

// The first step that forgets the state before it, or kTile.
INLINE int first_reset(const CorrectShared& shared, int lane) {
  int first = kTile;
  if constexpr (kHasReset) {
    for (int step = kTile - 32 + lane; step >= 0; step -= 32)
      if (shared.reset[step]) first = step;
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      const int other = exchange(first, bit);
      first = other < first ? other : first;
    }
  }
  return first;
}

// Turns the times of a tile into what its outputs lack, with an exponential for each state and step. States of
// which a warp has none left are left out.
INLINE void add_exponentials(CorrectShared& shared, const Remaining& remaining, const bool (&alive)[kStatesPerThread],
                             const Seat& seat) {
  synchronize_warp();
#pragma unroll 1
  for (int first = 0; first < kTile; first += kSteps) {
    Real times[kSteps], sums[kSteps] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) times[i] = shared.cells.at(first + i, seat.channel);
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j) {
      if (!alive[j]) continue;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const Real c = shared.C.at[first + i][j * kStateLanes + seat.state_lane];
        sums[i] += c * (remaining.h[j] * power_of_two(times[i] * remaining.rates[j]));
      }
    }
    sum_over_states(sums, seat.lane);
    synchronize_warp();
#pragma unroll
    for (int i = 0; i < (kSteps + kStateLanes - 1) / kStateLanes; ++i) {
      const int step = i * kStateLanes + seat.state_lane;
      if (step < kSteps) shared.cells.at(first + step, seat.channel) = sums[i];
    }
  }
}

// Adds to the outputs of a tile, through their gate, as far as no reset forgets what is added.
INLINE void write_corrected(const CorrectShared& shared, const Cursor<Stored>& to, int steps, int forgotten_from,
                            const ChannelTile& y, const ChannelTile& z, const Mover& mover) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!mover.moves(i, steps) || mover.step(i) >= forgotten_from) continue;
    ChannelReals values = shared.cells.pack(mover.step(i), mover.column);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if constexpr (kHasZ) values.at[v] *= z.packs[i].at(v) * sigmoid(z.packs[i].at(v));
      values.at[v] += y.packs[i].at(v);
    }
    store_pack(to(i), values);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_correct(const CorrectArguments p) {
  SHARED_MEMORY(CorrectShared, shared);
  const int thread = threadIdx.x;
  const Place place(p.sizes, blockIdx.x);
  if (place.span == 0 && p.initial == nullptr) return;
  const Seat seat(place, thread);
  const Mover mover(place, thread);
  const ChannelReals bias = mover.parameter(p.bias, place, p.sizes);

  if (thread == 0) shared.alive_at = -1;
  synchronize_block();
  Remaining remaining;
  if (begin(remaining, shared, p, place, seat)) shared.alive_at = 0;
  CorrectLoader next(p, place, mover);
  Cursor<Stored> y_at = cursor(p.y, place, p.sizes, mover, place.start);
  next.load(y_at, place.stop - place.start, mover, thread);
  synchronize_block();
#pragma unroll 1
  for (int index = 0, start = place.start; start < place.stop && shared.alive_at == index; ++index, start += kTile) {
    const int steps = place.stop - start;
    next.store(shared, bias, steps, mover, thread);
    load_resets(place, p.reset, start, steps, thread, shared.reset);
    synchronize_block();
    const ChannelTile y = next.y, z = next.z;
    const Cursor<Stored> to = y_at;
    y_at.move(kTile);
    if (steps > kTile) next.load(y_at, steps - kTile, mover, thread);
    const int forgotten_from = first_reset(shared, seat.lane);
    const Elapsed elapsed(shared.cells, seat);
    const Reach reach(elapsed, remaining.h, remaining.rates);
    if (reach.is_short()) {
      add_series(shared.cells, shared.C, elapsed, reach, remaining.h, remaining.rates, seat);
    } else {
      elapsed.write(shared.cells, seat);
      add_exponentials(shared, remaining, reach.alive, seat);
    }
    if (remaining.decay(elapsed.whole, forgotten_from < kTile)) shared.alive_at = index + 1;
    synchronize_block();
    write_corrected(shared, to, steps, forgotten_from, y, z, mover);
  }
}
