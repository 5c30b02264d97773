// Stands in for the kernels' matrix_intrinsics.h on the host, beside intrinsics.h: products and loads of a warp are
// made from what its lanes give, and copies to shared memory are made no sooner than a thread waits for them.
#pragma once

#include <deque>
#include <functional>

#include "numbers.cuh"

struct alignas(16) HostWords {
  unsigned char bytes[2][64];  // of each parity, as in `exchange`
};

static std::vector<HostWords> host_words;

// What every lane of the warp gives.
template <typename T>
void gather(const T& mine, T (&all)[kHostWarp]) {
  static_assert(sizeof(T) <= 64, "a lane gives little");
  const Unwatched unwatched;
  const int thread = host_block.running, base = thread / kHostWarp * kHostWarp;
  if (host_words.size() < host_block.threads.size()) host_words.resize(host_block.threads.size());
  const int parity = (host_block.threads[thread].exchanges + 1) % 2;
  std::memcpy(host_words[thread].bytes[parity], &mine, sizeof(T));
  exchange(0.0f, 0);
  for (int lane = 0; lane < kHostWarp; ++lane) std::memcpy(&all[lane], host_words[base + lane].bytes[parity], sizeof(T));
}

inline int host_lane() { return host_block.running % kHostWarp; }

template <bool kTransposed>
void load_matrices(unsigned (&to)[4], const void* row) {
  if (reinterpret_cast<size_t>(row) % 16) std::fprintf(stderr, "a row of a matrix is not aligned\n"), std::abort();
  const void* rows[kHostWarp];
  gather(row, rows);
  const int r = host_lane() / 4, c = host_lane() % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto at = [&](int i, int j) -> unsigned { return static_cast<const unsigned short*>(rows[matrix * 8 + i])[j]; };
    to[matrix] = kTransposed ? at(c, r) | at(c + 1, r) << 16 : at(r, c) | at(r, c + 1) << 16;
  }
}

// The reverse.
inline void store_transposed(void* row, const unsigned (&from)[4]) {
  if (reinterpret_cast<size_t>(row) % 16) std::fprintf(stderr, "a row of a matrix is not aligned\n"), std::abort();
  void* rows[kHostWarp];
  gather(row, rows);
  const int r = host_lane() / 4, c = host_lane() % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int i = 0; i < 2; ++i) {
      static_cast<unsigned short*>(rows[matrix * 8 + c + i])[r] = static_cast<unsigned short>(from[matrix] >> 16 * i);
    }
}

inline void store_matrices(void* row, const unsigned (&from)[4]) {
  if (reinterpret_cast<size_t>(row) % 16) std::fprintf(stderr, "a row of a matrix is not aligned\n"), std::abort();
  void* rows[kHostWarp];
  gather(row, rows);
  for (int matrix = 0; matrix < 4; ++matrix) {
    std::memcpy(static_cast<unsigned short*>(rows[matrix * 8 + host_lane() / 4]) + host_lane() % 4 * 2, &from[matrix], 4);
  }
}

struct HostFactors {
  unsigned a[4], b[2];
};

template <typename Format>
void multiply_words(Format, float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  HostFactors all[kHostWarp];
  gather(HostFactors{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const Unwatched unwatched;
  const auto number = [](unsigned word, int high) {
    return high ? widen_high(Format(), word) : widen_low(Format(), word);
  };
  const int lane = host_lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    double sum = sums[i];
    for (int k = 0; k < 16; ++k) {
      const float left = number(all[row * 4 + k % 8 / 2].a[i / 2 + k / 8 * 2], k % 2);
      const float right = number(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
      sum += static_cast<double>(left) * right;
    }
    sums[i] = static_cast<float>(sum);
  }
}

struct HostCopy {
  void* to;
  const void* from;
  bool present;
  int group;
};

struct HostCopies {
  std::deque<HostCopy> open;
  int closed = 0;
};

static std::vector<HostCopies> host_copies;
static int host_copying_block = 0;

inline HostCopies& copies_of_thread() {
  const Unwatched unwatched;
  if (host_copying_block != host_block.number) {
    for (const HostCopies& copies : host_copies) {
      if (!copies.open.empty()) std::fprintf(stderr, "a block ended before its copies\n"), std::abort();
    }
    host_copies.assign(host_block.threads.size(), HostCopies());
    host_copying_block = host_block.number;
  }
  return host_copies[host_block.running];
}

inline void copy_sixteen_bytes(void* to, const void* from, bool present) {
  if (reinterpret_cast<size_t>(to) % 16 || (present && reinterpret_cast<size_t>(from) % 16)) {
    std::fprintf(stderr, "a copy is not aligned\n"), std::abort();
  }
  HostCopies& copies = copies_of_thread();
  const Unwatched unwatched;
  copies.open.push_back({to, from, present, copies.closed});
}

inline void close_copies() {
  HostCopies& copies = copies_of_thread();
  const Unwatched unwatched;
  ++copies.closed;
}

template <int kLeft>
void wait_for_copies() {
  HostCopies& copies = copies_of_thread();
  for (;;) {
    HostCopy copy;
    {
      const Unwatched unwatched;
      if (copies.open.empty() || copies.open.front().group >= copies.closed - kLeft) return;
      copy = copies.open.front();
      copies.open.pop_front();
    }
    unsigned char* to = static_cast<unsigned char*>(copy.to);
    if (copy.present) std::memcpy(to, copy.from, 16);
    else std::memset(to, 0, 16);
  }
}

inline int uniform(int x) { return x; }

template <typename Number>
Number from_lane(Number x, int lane) {
  Number all[kHostWarp];
  gather(x, all);
  return all[lane];
}

template <typename Number>
Number from_lower_lane(Number x, int lanes) {
  const int lane = host_lane();
  return from_lane(x, lane >= lanes ? lane - lanes : lane);
}

template <typename Number>
Number from_upper_lane(Number x, int lanes) {
  const int lane = host_lane();
  return from_lane(x, lane + lanes < kHostWarp ? lane + lanes : lane);
}

// Products by warpgroups, which are made no sooner than a thread waits for them.
struct HostRight {
  const unsigned char* first;
  int along_columns, along_depth;  // in blocks; else zero:
  int pitch, next_panel;

  // Of the number in row k and column n. A panel's rows are columns of the factor where it is transposed.
  const void* address(int k, int n, bool transposed) const {
    if (!pitch) {
      const unsigned char* block = first + k / 8 * along_depth + n / 8 * along_columns;
      return block + (transposed ? n % 8 * 16 + k % 8 * 2 : k % 8 * 16 + n % 8 * 2);
    }
    const int width = pitch / 2;
    size_t at = reinterpret_cast<size_t>(first);
    at += transposed ? n * pitch + k * 2 : n / width * next_panel + n % width * 2 + k * pitch;
    return reinterpret_cast<const void*>(at ^ (at >> 3 & (pitch == 128 ? 0x70 : 0x30)));
  }
};

inline HostRight right_in_blocks(const void* tile, int offset, int along_columns, int along_depth) {
  return {static_cast<const unsigned char*>(tile) + offset, along_columns, along_depth, 0, 0};
}
inline HostRight right_in_panel(const void* tile, int offset, int pitch, int next_panel) {
  return {static_cast<const unsigned char*>(tile) + offset, 0, 0, pitch, next_panel};
}

inline HostRight moved(HostRight right, unsigned bytes) {
  right.first += bytes;
  return right;
}

struct HostProduct {
  std::function<void()> make;
  int group;
};

struct HostProducts {
  std::deque<HostProduct> open;
  int closed = 0;
};

static std::vector<HostProducts> host_products;
static int host_multiplying_block = 0;

inline HostProducts& products_of_thread() {
  const Unwatched unwatched;
  if (host_multiplying_block != host_block.number) {
    for (const HostProducts& products : host_products) {
      if (!products.open.empty()) std::fprintf(stderr, "a block ended before its products\n"), std::abort();
    }
    host_products.assign(host_block.threads.size(), HostProducts());
    host_multiplying_block = host_block.number;
  }
  return host_products[host_block.running];
}

template <bool kTransposed, bool kFresh = false, typename Format, int kCount>
void multiply_group(Format, float (&sums)[kCount], const unsigned (&left)[4], const HostRight& right) {
  HostFactors all[kHostWarp];
  gather(HostFactors{{left[0], left[1], left[2], left[3]}, {0, 0}}, all);
  const auto number = [](unsigned word, int high) {
    return high ? widen_high(Format(), word) : widen_low(Format(), word);
  };
  const int lane = host_lane();
  std::vector<float> rows(32);
  for (int k = 0; k < 32; ++k) {
    rows[k] = number(all[lane / 4 * 4 + k % 8 / 2].a[k / 16 + k / 8 % 2 * 2], k % 2);
  }
  float* to = sums;
  const auto make = [=] {
    for (int i = 0; i < kCount; ++i) {
      const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = kFresh ? 0.0f : to[i];
      for (int k = 0; k < 16; ++k) {
        const unsigned bits = *static_cast<const unsigned short*>(right.address(k, column, kTransposed));
        sum += static_cast<double>(rows[i / 2 % 2 * 16 + k]) * number(bits, 0);
      }
      to[i] = static_cast<float>(sum);
    }
  };
  HostProducts& products = products_of_thread();
  const Unwatched unwatched;
  products.open.push_back({make, products.closed});
}

// The left factor's rows in shared memory are columns of its transpose.
template <bool kTransposed, typename Format, int kCount>
void multiply_group(Format, float (&sums)[kCount], const HostRight& left, const HostRight& right) {
  const auto number = [](unsigned word) { return widen_low(Format(), word); };
  const int lane = host_lane(), first = host_block.running / kHostWarp % 4 * 16 + lane / 4;
  float* to = sums;
  const auto make = [=] {
    for (int i = 0; i < kCount; ++i) {
      const int column = i / 4 * 8 + lane % 4 * 2 + i % 2, row = first + i / 2 % 2 * 8;
      double sum = to[i];
      for (int k = 0; k < 16; ++k) {
        const float of_left = number(*static_cast<const unsigned short*>(left.address(k, row, true)));
        sum += static_cast<double>(of_left) * number(*static_cast<const unsigned short*>(right.address(k, column, kTransposed)));
      }
      to[i] = static_cast<float>(sum);
    }
  };
  HostProducts& products = products_of_thread();
  const Unwatched unwatched;
  products.open.push_back({make, products.closed});
}

inline void publish_to_matrix_unit() {}
inline void begin_products() {}

inline void close_products() {
  HostProducts& products = products_of_thread();
  const Unwatched unwatched;
  ++products.closed;
}

template <int kLeft>
void wait_for_products() {
  HostProducts& products = products_of_thread();
  for (;;) {
    std::function<void()> make;
    {
      const Unwatched unwatched;
      if (products.open.empty() || products.open.front().group >= products.closed - kLeft) return;
      make = products.open.front().make;
      products.open.pop_front();
    }
    make();
  }
}

template <int kCount>
void pin(float (&)[kCount]) {}
inline void pin(unsigned (&)[4]) {}
