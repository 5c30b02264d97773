// What the state at the start of a span adds to its outputs. scan_forward ran every span from zero; here the
// state that it should have begun with runs through the span without inputs, tile by tile, as long as anything
// of it is left: y_t += C_t . 2^(A S_t) h, with the time S_t since the start. So a lane takes a step of its own.
// The first span either began with the true state, or that state is given here.
#include "recurrence.cuh"
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

static_assert(kTile <= 32, "a warp has a lane for each step of a tile");

constexpr int kWarps = kThreads / 32;
constexpr int kChannelsOfWarp = 32 / kTile;  // at once
constexpr int kRounds = (kChannels + kWarps * kChannelsOfWarp - 1) / (kWarps * kChannelsOfWarp);
constexpr int kChunk = kPaddedStates < 16 ? kPaddedStates : 16;  // states of a step that a lane holds at once
constexpr int kGroup = kPaddedStates < 4 ? kPaddedStates : 4;    // states that are left out together,
constexpr int kTogether = kRounds < 4 ? kRounds : 4;             // of so many channels

using StateGroup = Pack<Real, kGroup>;

// States below this are zero, as they are to the special-function unit.
constexpr Real kSmallest = Real(sizeof(Real) == 4 ? 1.1754943508222875e-38 : 2.2250738585072014e-308);

struct CorrectShared {
  Real cells[kTile][kChannels + 1];  // the step sizes, then what is added to the outputs
  StateRows C;
  StateGroup states[kChannels][kPaddedStates / kGroup], rates[kChannels][kPaddedStates / kGroup];
  bool reset[kTile];
  int alive_at;  // the last tile that any state has reached
};

EXPORTED_SIZE(correct_shared_bytes, CorrectShared)

// A thread's share of the next tile, on its way.
struct CorrectLoader {
  ChannelTile delta, y, z;
  StateTile C;

  INLINE void load(const CorrectArguments& p, const Place& place, const Cursor<Stored>& y_at, int start, int steps,
                   const Mover& mover, int thread) {
    delta.load_delta(delta_cursor(p.delta, place, p.sizes, mover, start), steps, mover);
    y.load(y_at, steps, mover);
    if constexpr (kHasZ) z.load(cursor(p.z, place, p.sizes, mover, start), steps, mover);
    C.load(place.at(p.C) + start * p.C.time, p.C.time, steps, thread);
  }

  INLINE void store(CorrectShared& shared, const ChannelReals& bias, int steps, const Mover& mover,
                    int thread) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (mover.step(i) >= kTile) break;
#pragma unroll
      for (int v = 0; v < kVector; ++v)
        shared.cells[mover.step(i)][mover.column + v] =
            step_size(delta.packs[i].at(v), bias.at[v], mover.moves(i, steps));
    }
    C.store(shared.C, thread);
  }
};

// A lane's step, and its channel in each round.
struct StepSeat {
  int step, warp, channel_lane;

  INLINE explicit StepSeat(int thread) : step(thread % kTile), warp(thread / 32), channel_lane(thread % 32 / kTile) {}

  INLINE int channel(int round) const { return (round * kWarps + warp) * kChannelsOfWarp + channel_lane; }

  // Whether there is such a channel; where not, its memory is none.
  INLINE bool exists(int round) const {
    return round < kRounds && (kChannels == kRounds * kWarps * kChannelsOfWarp || channel(round) < kChannels);
  }
};

// The time from the start of a tile to the end of each step, and to its own end.
struct Elapsed {
  Real until_step[kRounds], whole[kRounds];

  INLINE Elapsed(const CorrectShared& shared, const StepSeat& seat) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round)
      until_step[round] = whole[round] = seat.exists(round) ? shared.cells[seat.step][seat.channel(round)] : Real(0);
#pragma unroll
    for (int bit = 1; bit < kTile; bit *= 2)
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        const Real other = exchange(whole[round], bit);
        if (seat.step & bit) until_step[round] += other;
        whole[round] += other;
      }
  }
};

// The first step that forgets the state before it, or kTile.
INLINE int first_reset(const CorrectShared& shared, const StepSeat& seat) {
  int first = kTile;
  if constexpr (kHasReset) {
    first = shared.reset[seat.step] ? seat.step : kTile;
#pragma unroll
    for (int bit = 1; bit < kTile; bit *= 2) {
      const int other = exchange(first, bit);
      first = other < first ? other : first;
    }
  }
  return first;
}

// Turns the step sizes of a tile into what its outputs lack.
INLINE void correct_tile(CorrectShared& shared, const StepSeat& seat, const Elapsed& elapsed, bool forgotten) {
#pragma unroll 1
  for (int chunk = 0; chunk < kPaddedStates; chunk += kChunk) {
    Real c[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) c[i] = shared.C.at[seat.step][chunk + i];
#pragma unroll
    for (int base = 0; base < kRounds; base += kTogether) {
      Real sums[kTogether] = {};
#pragma unroll
      for (int of_chunk = 0; of_chunk < kChunk; of_chunk += kGroup) {
        const int group = (chunk + of_chunk) / kGroup;
        StateGroup h[kTogether];
        bool alive = false;
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          h[k] = seat.exists(base + k) ? shared.states[seat.channel(base + k)][group] : StateGroup{};
#pragma unroll
          for (int i = 0; i < kGroup; ++i) alive |= h[k].at[i] != Real(0);
        }
        if (!alive) continue;
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (!seat.exists(base + k)) break;
          const StateGroup rates = shared.rates[seat.channel(base + k)][group];
#pragma unroll
          for (int i = 0; i < kGroup; ++i)
            sums[k] += c[of_chunk + i] * (h[k].at[i] * power_of_two(elapsed.until_step[base + k] * rates.at[i]));
        }
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        if (!seat.exists(base + k)) break;
        Real& cell = shared.cells[seat.step][seat.channel(base + k)];
        const Real before = chunk == 0 ? Real(0) : cell;
        cell = forgotten ? Real(0) : before + sums[k];
      }
    }
  }
}

// Moves the states to the end of a tile; returns whether any of this lane's is left.
INLINE bool decay_states(CorrectShared& shared, const StepSeat& seat, const Elapsed& elapsed, bool reset) {
  bool alive = false;
#pragma unroll 1
  for (int state = seat.step; state < kPaddedStates; state += kTile) {
    const int group = state / kGroup, i = state % kGroup;
    Real left[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (!seat.exists(round)) break;
      const int channel = seat.channel(round);
      const Real h = shared.states[channel][group].at[i], rate = shared.rates[channel][group].at[i];
      left[round] = h == Real(0) ? Real(0) : h * power_of_two(elapsed.whole[round] * rate);
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const bool gone = reset || magnitude(left[round]) < kSmallest;
      if (!seat.exists(round)) break;
      shared.states[seat.channel(round)][group].at[i] = gone ? Real(0) : left[round];
      // An overflowing decay of nothing is nothing.
      if (gone) shared.rates[seat.channel(round)][group].at[i] = Real(0);
      alive |= !gone;
    }
  }
  return alive;
}

// The state at the start of the span goes to shared memory, the last state of the sequence to its place. Returns
// whether there is anything to pass on.
INLINE bool begin(CorrectShared& shared, const CorrectArguments& p, const Place& place, int thread) {
  const Seat seat(place, thread);
  Real rates[kStatesPerThread], h[kStatesPerThread];
  read_rates(p.A, place, p.sizes, seat, rates);
  const Passed passed(p.states, p.totals, place, p.sizes);
  read_states(part(p.initial, place.sequence, p.sizes), place, seat, h);
  receive(h, passed, 0, 1, place.span, seat, rates);
  bool alive = false;
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) {
    const int state = seat.state_lane * kStatesPerThread + j;
    shared.states[seat.channel][state / kGroup].at[state % kGroup] = h[j];
    shared.rates[seat.channel][state / kGroup].at[state % kGroup] = h[j] == Real(0) ? Real(0) : rates[j];
    alive |= h[j] != Real(0);
  }
  if (place.stop == p.sizes.length) {
    receive(h, passed, place.span, 1, 1, seat, rates);
    write_states(part(p.last, place.sequence, p.sizes), place, seat, h);
  }
  return alive;
}

// Adds to the outputs of a tile, through their gate.
INLINE void write_corrected(const CorrectShared& shared, const Cursor<Stored>& to, int steps, const ChannelTile& y,
                            const ChannelTile& z, const Mover& mover) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!mover.moves(i, steps)) continue;
    ChannelReals values;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      Real added = shared.cells[mover.step(i)][mover.column + v];
      if constexpr (kHasZ) added *= z.packs[i].at(v) * sigmoid(z.packs[i].at(v));
      values.at[v] = y.packs[i].at(v) + added;
    }
    store_pack(to(i), values);
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) scan_correct(const CorrectArguments p) {
  SHARED_MEMORY(CorrectShared, shared);
  const int thread = threadIdx.x;
  const Place place(p.sizes, blockIdx.x);
  if (place.span == 0 && p.initial == nullptr) return;
  const Mover mover(place, thread);
  const StepSeat seat(thread);
  const ChannelReals bias = mover.parameter(p.bias, place, p.sizes);

  if (thread == 0) shared.alive_at = -1;
  synchronize_block();
  if (begin(shared, p, place, thread)) shared.alive_at = 0;
  CorrectLoader next;
  Cursor<Stored> y_at = cursor(p.y, place, p.sizes, mover, place.start);
  next.load(p, place, y_at, place.start, place.stop - place.start, mover, thread);
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
    if (steps > kTile) next.load(p, place, y_at, start + kTile, steps - kTile, mover, thread);
    const Elapsed elapsed(shared, seat);
    const int forgotten_from = first_reset(shared, seat);
    correct_tile(shared, seat, elapsed, seat.step >= forgotten_from);
    synchronize_warp();
    if (decay_states(shared, seat, elapsed, forgotten_from < kTile)) shared.alive_at = index + 1;
    synchronize_block();
    write_corrected(shared, to, steps, y, z, mover);
  }
}
