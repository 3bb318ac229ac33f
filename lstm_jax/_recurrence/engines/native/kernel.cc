// The recurrence of one layer over all its time steps: run, linearised, transposed; and the products
// of all time steps at once.
//
// The equations are those of equations.py. A call packs the recurrent weights once; then each thread of
// XLA's pool takes its own rows of the batch through all steps and waits for nobody. Where there are
// fewer rows than threads, they share each step's product.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define INLINE_LAMBDA __attribute__((always_inline))

// What an instruction may do; the translator asks for these names.
#define OPS(X)                                                                                    \
  X(copy) X(add) X(sub) X(mul) X(div) X(max) X(min) X(neg) X(abs) X(sign) X(tanh) X(logistic)     \
  X(dtanh) X(dlogistic)                                                                           \
  X(exp) X(lt) X(le) X(gt) X(ge) X(eq) X(ne) X(and_) X(or_) X(not_) X(select) X(sqrt) X(rsqrt)    \
  X(log) X(log1p) X(expm1) X(sin) X(cos) X(tan) X(atan) X(erf) X(floor) X(ceil) X(round)          \
  X(is_finite) X(single) X(half) X(bfloat16) X(pow) X(sum) X(largest) X(accumulate)

enum class Op : int32_t {
#define X(name) name,
  OPS(X)
#undef X
};

// The names of a list, for Python.
#define NAME(name) #name " "

extern "C" const char* lstm_jax_operations() { return OPS(NAME); }

// Of what this was built: a number of the sources that the build hands over.
#ifndef LSTM_JAX_SOURCES
#define LSTM_JAX_SOURCES ""
#endif
extern "C" const char* lstm_jax_sources() { return LSTM_JAX_SOURCES; }

// The version of XLA's interface that it speaks.
#define TEXT(x) #x
#define VERSION(major, minor) TEXT(major) "." TEXT(minor)
extern "C" const char* lstm_jax_interface() {
  return VERSION(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}

// Where an operand lies: array, offset, and how far apart its rows and its elements are. A row of 0
// is one row for all, an elem of 0 one number for a row.
struct Operand {
  int32_t base, offset, row, elem;
};

struct Instruction {
  int32_t op, n, each_row;
  Operand out, a, b, c;
};

template <class T>
constexpr T factorial(int n) {
  return n < 2 ? T(1) : T(n) * factorial<T>(n - 1);
}

// Eleven bits; below 2^-14 multiples of 2^-24, which is what adding 0.75 rounds a float to.
template <class T>
T rounded_to_half(T x) {
  float y = float(x);
  if (!(std::fabs(y) >= 0x1p-14f)) return T(std::copysign((y + 0.75f) - 0.75f, y));
  uint32_t bits;
  std::memcpy(&bits, &y, 4);
  bits = (bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000u;
  std::memcpy(&y, &bits, 4);
  return T(std::fabs(y) < 65536 ? y : std::copysign(std::numeric_limits<float>::infinity(), y));
}

// The upper half of a float, rounded to the nearest, or to the even one of two; NaN stays.
inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000) >> 16);
}

// The bits in bfloat16 of a number, or of one that is there already.
inline uint16_t narrowed(float x) { return to_bfloat16(x); }
inline uint16_t narrowed(double x) { return to_bfloat16(float(x)); }
inline uint16_t narrowed(uint16_t bits) { return bits; }

inline float from_bfloat16(uint16_t half) {
  uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

#include "machine.h"
#include "tile.h"
#include "pages.h"
#include "scratch.h"
#include "parallel.h"
#include "arguments.h"

// ---- one source for several instruction sets -----------------------------------------------------
// Each set is a namespace of the same functions, compiled with other instructions. A machine that
// lacks a set never enters its functions.
template <class T>
struct Kernel {
  void (*run)(Arguments<T>&);
  void (*linearized)(Arguments<T>&);
  void (*transposed)(Arguments<T>&);
  void (*product)(ffi::ThreadPool&, const void*, const void*, const T*, T*, const ProductCall&);
};

#define KERNEL_OF(set)                                                              \
  Kernel<T> {                                                                       \
    set::run_call<T>, set::linearized_call<T>, set::transposed_call<T>, set::product_call<T> \
  }

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#if PAIRS
#pragma GCC target("avx512bf16")
#endif
#define WIDTH 64
namespace avx512 {
#include "instruction_set.h"
}  // namespace avx512
#undef WIDTH
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define WIDTH 32
namespace avx2 {
#include "instruction_set.h"
}  // namespace avx2
#undef WIDTH
#pragma GCC pop_options
#endif

#define WIDTH 16
namespace portable {
#include "instruction_set.h"
}  // namespace portable
#undef WIDTH

template <class T>
const Kernel<T>& best() {
  static const Kernel<T> kernel = [] {
#if defined(__x86_64__)
    if (here.vectors == Level::avx512) return KERNEL_OF(avx512);
    if (here.vectors == Level::avx2) return KERNEL_OF(avx2);
#endif
    return KERNEL_OF(portable);
  }();
  return kernel;
}

// ---- handlers ------------------------------------------------------------------------------------
// Many members go to different threads whole; of few, all threads share each.
template <class T>
void each_member(Arguments<T>& in, int64_t members, void (*call)(Arguments<T>&)) {
  const bool many = members >= 2 * threads(in.pool);
  auto some = [&](int, int64_t first, int64_t last) {
    for (int64_t m = first; m < last; m++) {
      Arguments<T> of_member = in;
      of_member.member = m, of_member.alone = many;
      call(of_member);
    }
  };
  if (many) split(in.pool, members, some);
  else some(0, 0, members);
}

#define HANDLER(T, name)                                                                         \
  ffi::Error handle_##name##_##T(ffi::ThreadPool pool, ffi::RemainingArgs args,                  \
                                 ffi::RemainingRets rets, ffi::Span<const int32_t> call,         \
                                 ffi::Span<const int32_t> code, ffi::Span<const T> constants) {  \
    Arguments<T> in{pool, args, rets, call, code, constants};                                    \
    each_member(in, in.members(), best<T>().name);                                               \
    return ffi::Error::Success();                                                                \
  }                                                                                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_##name##_##T, handle_##name##_##T,                      \
                                ffi::Ffi::Bind()                                                 \
                                    .Ctx<ffi::ThreadPool>()                                      \
                                    .RemainingArgs()                                             \
                                    .RemainingRets()                                             \
                                    .Attr<ffi::Span<const int32_t>>("call")                      \
                                    .Attr<ffi::Span<const int32_t>>("code")                      \
                                    .Attr<ffi::Span<const T>>("constants"));
#define HANDLERS(T) HANDLER(T, run) HANDLER(T, linearized) HANDLER(T, transposed)
HANDLERS(float)
HANDLERS(double)

// a, b and perhaps a row to begin the sums with.
template <class T>
ffi::Error product(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                   int32_t a_axis, int32_t b_axis, int32_t members) {
  ffi::AnyBuffer a = args.get<ffi::AnyBuffer>(0).value(), b = args.get<ffi::AnyBuffer>(1).value();
  auto last = [](const ffi::AnyBuffer& x) { return x.dimensions().back(); };
  auto others = [=](const ffi::AnyBuffer& x) {
    ffi::Span<const int64_t> shape = x.dimensions();
    return std::accumulate(shape.begin() + members, shape.end() - 1, int64_t(1),
                           std::multiplies<int64_t>());
  };
  ProductCall call{members ? a.dimensions()[0] : 1,
                   a_axis ? others(a) : last(a), a_axis ? last(a) : others(a),
                   b_axis ? others(b) : last(b), a_axis == 0, b_axis == 0, args.size() > 2,
                   a.element_type() == ffi::DataType::BF16, b.element_type() == ffi::DataType::BF16};
  ffi::AnyBuffer c = *rets.get<ffi::AnyBuffer>(0).value();
  in_large_pages(c.untyped_data(), c.size_bytes());
  const void* start = call.start ? args.get<ffi::AnyBuffer>(2).value().untyped_data() : nullptr;
  best<T>().product(pool, a.untyped_data(), b.untyped_data(), static_cast<const T*>(start),
                    static_cast<T*>(c.untyped_data()), call);
  return ffi::Error::Success();
}

#define PRODUCT(T)                                                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_product_##T, product<T>,               \
                                ffi::Ffi::Bind()                                \
                                    .Ctx<ffi::ThreadPool>()                     \
                                    .RemainingArgs()                            \
                                    .RemainingRets()                            \
                                    .Attr<int32_t>("a_axis")                    \
                                    .Attr<int32_t>("b_axis")                    \
                                    .Attr<int32_t>("members"));
PRODUCT(float)
PRODUCT(double)
