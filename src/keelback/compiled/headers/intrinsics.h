// The machine instructions that the kernels name, for NVIDIA GPUs.
#pragma once

#define INLINE __device__ __forceinline__
#define KERNEL extern "C" __global__

// A kernel's shared memory; the host reads its size from a constant of the module.
#define SHARED_MEMORY(Type, name)                                 \
  extern __shared__ __align__(1024) unsigned char shared_memory[]; \
  Type& name = *reinterpret_cast<Type*>(shared_memory)
#define EXPORTED_SIZE(name, Type) extern "C" __constant__ const int name = sizeof(Type);

INLINE float float_of_bits(unsigned bits) { return __uint_as_float(bits); }

INLINE float magnitude(float x) { return fabsf(x); }
INLINE double magnitude(double x) { return fabs(x); }
INLINE float larger(float x, float y) { return fmaxf(x, y); }
INLINE double larger(double x, double y) { return fmax(x, y); }
INLINE float smaller(float x, float y) { return fminf(x, y); }

// x, which the compiler keeps rather than computes again.
INLINE float opaque(float x) {
  asm volatile("" : "+f"(x));
  return x;
}

INLINE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

INLINE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

INLINE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

INLINE float reciprocal_root(float x) { return rsqrtf(x); }

INLINE float half_to_float(unsigned short bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}

INLINE unsigned floats_to_halves(float low, float high) {
  unsigned word;
  asm("{ .reg .f16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
      : "=r"(word)
      : "f"(low), "f"(high));
  return word;
}

INLINE unsigned floats_to_bfloats(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  auto narrow = [](float x) -> unsigned {
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return narrow(low) | narrow(high) << 16;
#endif
}

INLINE unsigned bits_of_float(float x) { return __float_as_uint(x); }

template <typename Number>
INLINE Number endless();
template <>
INLINE float endless<float>() { return __int_as_float(0x7f800000); }
template <>
INLINE double endless<double>() { return __longlong_as_double(0x7ff0000000000000LL); }

INLINE bool any_of_warp(bool x) { return __any_sync(0xffffffffu, x); }

template <typename Number>
INLINE Number exchange(Number x, int lanes) {
  return __shfl_xor_sync(0xffffffffu, x, lanes);
}

#if __CUDA_ARCH__ >= 800
constexpr bool kHasMatrixUnit = true;
#else
constexpr bool kHasMatrixUnit = false;
#endif

// The significant bits that the matrix unit keeps.
INLINE float leading_part(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// sums = a b, or sums += a b, on the matrix unit: a (16, 8) and b (8, 8) are cut to 11 significant bits, sums
// (16, 8) are not. With r = lane / 4 and c = lane % 4, a thread holds a at (r, c), (r + 8, c), (r, c + 4),
// (r + 8, c + 4), b at (c, r), (c + 4, r), and sums at (r, 2c), (r, 2c + 1), (r + 8, 2c), (r + 8, 2c + 1).
INLINE void multiply_matrices(float (&sums)[4], const float (&a)[4], float b0, float b1, bool fresh) {
  const float before[4] = {fresh ? 0.0f : sums[0], fresh ? 0.0f : sums[1], fresh ? 0.0f : sums[2],
                           fresh ? 0.0f : sums[3]};
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)), "f"(before[0]),
        "f"(before[1]), "f"(before[2]), "f"(before[3]));
#endif
}

// Starts to bring the line of memory at `address` to the second-level cache.
INLINE void prefetch_line(const void* address) { asm volatile("prefetch.global.L2 [%0];" :: "l"(address)); }

// Stores four consecutive floats at once, which the compiler takes apart; `to` is aligned to 16 bytes.
INLINE void store_four(float* to, float a, float b, float c, float d) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" :: "l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// What the lanes of a warp wrote to shared memory before is there for all of them after.
INLINE void synchronize_warp() { __syncwarp(); }

INLINE void synchronize_block() { __syncthreads(); }

// A kernel may be launched to overlap with the one before it in the stream, on GPUs of compute capability 9.0 and above: it
// then begins once every block of that one has called `let_next_begin` or ended, and waits here for its end before it
// touches what that one has written.
INLINE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
INLINE void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

INLINE void add_to_memory(double* to, double x) { atomicAdd(to, x); }
INLINE void add_to_memory(float* to, float x) { atomicAdd(to, x); }

// Adds four consecutive floats; `to` is aligned to 16 bytes.
INLINE void add_to_memory(float* to, float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
               :: "l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
#endif
}

INLINE void add_to_memory(double* to, double a, double b, double c, double d) {
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
}
