// Tile states: the state at the start of a tile, kept from the sweep to the reverse pass.
//
// They live where the gradient of u will be written: a block of the reverse pass reads the state of a tile
// before it overwrites those steps, which no other block touches. Where the states of a channel do not
// fit into its `kTile` elements, the host passes a buffer with rows of its own instead.
#pragma once

#include "tiles.cuh"

struct TileStates {
  Stored* data;       // (sequence, row, channel)
  Index rows;         // rows of a sequence
  Index rows_of_tile; // rows from one tile to the next, or 0: a tile's rows are its own steps
};

// Values of type Real are spread over this many elements of type Stored, one row each.
constexpr int kRowsPerReal = sizeof(Real) / sizeof(Stored);

INLINE void write_rows(Stored* to, Index row_stride, Real value) {
  if constexpr (kRowsPerReal == 1) {
    *reinterpret_cast<Real*>(to) = value;
  } else {
    const unsigned bits = bits_of_float(value);
    unsigned short* halves = reinterpret_cast<unsigned short*>(to);
    halves[0] = static_cast<unsigned short>(bits >> 16);
    halves[row_stride] = static_cast<unsigned short>(bits);
  }
}

INLINE Real read_rows(const Stored* from, Index row_stride) {
  if constexpr (kRowsPerReal == 1) {
    return *reinterpret_cast<const Real*>(from);
  } else {
    const unsigned short* halves = reinterpret_cast<const unsigned short*>(from);
    return float_of_bits(static_cast<unsigned>(halves[0]) << 16 | halves[row_stride]);
  }
}

// The tiles of a span end where the span ends: only the first may be shorter than kTile.
struct TileCut {
  int start, stop, count;

  INLINE explicit TileCut(const Place& place)
      : start(place.start), stop(place.stop), count((place.stop - place.start + kTile - 1) / kTile) {}

  INLINE int start_of(int tile) const { return tile == 0 ? start : stop - (count - tile) * kTile; }
  INLINE int steps_of(int tile) const { return start_of(tile + 1) - start_of(tile); }
};

// The element of a tile's first row of states, at channel `channel` of the block.
INLINE Stored* tile_state_at(const TileStates& kept, const Place& place, const Sizes& sizes, const TileCut& cut,
                             int tile, int channel) {
  const int tiles_per_span = (sizes.span_length + kTile - 1) / kTile;
  const Index row = kept.rows_of_tile == 0 ? cut.start_of(tile)
                                           : Index(place.span * tiles_per_span + tile) * kept.rows_of_tile;
  return kept.data + (place.sequence * kept.rows + row) * sizes.channels + place.first_channel + channel;
}

// Where channels are even in number, two neighbours share two rows: each has both elements of one.
constexpr bool kPaired = kRowsPerReal == 2 && kVector % 2 == 0;

// Calls use(j, at) for each state of this thread: `at` is its first element in the rows of a tile.
template <typename Use>
INLINE void for_states_at(Stored* first, const Sizes& sizes, const Seat& seat, Use use) {
  const int odd = kPaired ? seat.channel % 2 : 0;
  first += odd * (sizes.channels - 1);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) {
    const Index row = Index(seat.state_lane * kStatesPerThread + j) * kRowsPerReal;
    if (seat.holds(j)) use(j, first + row * sizes.channels);
  }
}

INLINE void write_tile_state(const TileStates& kept, const Place& place, const Sizes& sizes,
                             const TileCut& cut, int tile, const Seat& seat, const Real (&h)[kStatesPerThread]) {
  for_states_at(tile_state_at(kept, place, sizes, cut, tile, seat.channel), sizes, seat, [&](int j, Stored* at) {
    if constexpr (kPaired) *reinterpret_cast<Real*>(at) = h[j];
    else write_rows(at, sizes.channels, h[j]);
  });
}

INLINE void read_tile_state(const TileStates& kept, const Place& place, const Sizes& sizes, const TileCut& cut,
                            int tile, const Seat& seat, Real (&h)[kStatesPerThread]) {
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) h[j] = Real(0);
  for_states_at(tile_state_at(kept, place, sizes, cut, tile, seat.channel), sizes, seat, [&](int j, Stored* at) {
    if constexpr (kPaired) h[j] = *reinterpret_cast<const Real*>(at);
    else h[j] = read_rows(at, sizes.channels);
  });
}

// Brings a tile's state closer, for a later read.
INLINE void prefetch_tile_state(const TileStates& kept, const Place& place, const Sizes& sizes, const TileCut& cut,
                                int tile, const Seat& seat) {
  const Stored* from = tile_state_at(kept, place, sizes, cut, tile, seat.channel);
#pragma unroll
  for (int i = 0; i < kStatesPerThread * kRowsPerReal; ++i) {
    const Index row = seat.state_lane * kStatesPerThread * kRowsPerReal + i;
    if (seat.holds(i / kRowsPerReal)) prefetch_line(from + row * sizes.channels);
  }
}
