// The words of machine.cuh for a CPU: a thread of the GPU is one of the CPU.
//
// emulator.cc starts the threads and owns what they wait at. Barriers are all that orders memory,
// as on a GPU, so that a thread sanitizer sees where one is missing.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "thread.h"

#define INLINE inline
#define UNROLL
#define UNROLL_4
#define INFINITE INFINITY
#define NOT_A_NUMBER NAN

struct alignas(16) Words {
  uint32_t of[4];
};

static thread_local Thread* self;

INLINE int thread() { return self->thread; }
INLINE int block() { return self->block; }
INLINE char* shared_memory() { return self->shared[self->rank]; }
template <class T>
INLINE T* in_block(T* here, int rank) {
  return (T*)(self->shared[rank] + ((char*)here - shared_memory()));
}

INLINE void block_barrier() { self->block_barrier(self); }
INLINE void cluster_barrier() { self->cluster_barrier(self); }
INLINE void arrive(uint32_t* count) { __atomic_fetch_add(count, 1, __ATOMIC_RELEASE); }
extern "C" int sched_yield(void);
INLINE void wait_for(const uint32_t* count, uint32_t most) {
  while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < most) sched_yield();
}
template <class T>
INLINE T fresh(const T* from) {
  return *from;
}

INLINE float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
INLINE float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, digits = bits & 1023;
  float size = exponent ? ldexpf(1024 + digits, exponent - 25) : ldexpf(digits, -24);
  if (exponent == 31) size = digits ? NAN : INFINITY;
  return bits >> 15 ? -size : size;
}
// To the nearest number of float16, or to the even one of two.
INLINE uint16_t to_half(float x) {
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  const float size = fabsf(x);
  if (x != x) return sign | 0x7e00;
  if (size >= 65520.f) return sign | 0x7c00;
  int exponent;
  frexpf(size, &exponent);
  if (exponent < -13 || size == 0.f) exponent = -13;
  // Of 2^exponent / 2 and more, 1024 to 2048 units; 2048 are the first of the next exponent.
  const int units = int(nearbyintf(ldexpf(size, 11 - exponent)));
  return sign | uint16_t(units + ((exponent + 13) << 10));
}
INLINE float from_bits(uint16_t bits) { return as_float(uint32_t(bits) << 16); }
INLINE uint16_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The operands of the whole warp lie in `warp` while each thread computes its part.
template <int kind>
INLINE void multiply_tile(float (&c)[4], const Words& a, uint32_t b_0, uint32_t b_1) {
  const int lane = self->thread % 32, group = lane / 4;
  Words* const all = self->warp;
  all[2 * lane] = a;
  all[2 * lane + 1] = {{b_0, b_1, 0, 0}};
  self->warp_barrier(self);
  auto number = [](uint32_t word, int k) {
    const uint16_t bits = uint16_t(word >> (16 * (k % 2)));
    return kind == 2 ? from_half(bits) : from_bits(bits);
  };
  auto a_at = [&](int m, int k) {
    return number(all[2 * (m % 8 * 4 + k % 8 / 2)].of[m / 8 + 2 * (k / 8)], k);
  };
  auto b_at = [&](int k, int n) { return number(all[2 * (n * 4 + k % 8 / 2) + 1].of[k / 8], k); };
  for (int i = 0; i < 4; i++) {
    const int m = group + 8 * (i / 2), n = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) c[i] += a_at(m, k) * b_at(k, n);
  }
  self->warp_barrier(self);
}

#define KERNEL(in)                                                           \
  static void body(const Arguments& in);                                     \
  extern "C" __attribute__((visibility("default"))) void kernel(Thread* thread, \
                                                                const Arguments* in) { \
    self = thread;                                                           \
    body(*in);                                                               \
  }                                                                          \
  static void body(const Arguments& in)
