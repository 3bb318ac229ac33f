// Vectors of one instruction set, and the functions that cells are made of.
//
// Included once for each instruction set, inside its namespace, with WIDTH bytes in a register.
// The vectors are the compiler's own (GCC, Clang), so that one source serves AVX-512, AVX2 and what
// has neither.

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float vector __attribute__((vector_size(WIDTH)));
  typedef int32_t integers __attribute__((vector_size(WIDTH)));
};

template <>
struct Lanes<double> {
  typedef double vector __attribute__((vector_size(WIDTH)));
  typedef int64_t integers __attribute__((vector_size(WIDTH)));
};

template <class T>
using V = typename Lanes<T>::vector;
template <class T>
using I = typename Lanes<T>::integers;
template <class T>
constexpr int N = WIDTH / int(sizeof(T));

template <class T>
INLINE V<T> load(const T* p) {
  V<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
INLINE void store(T* p, V<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

// The first n lanes; the others are zero.
template <class T>
INLINE V<T> load(const T* p, int n) {
  V<T> v = {};
  std::memcpy(&v, p, n * sizeof(T));
  return v;
}

template <class T>
INLINE void store(T* p, V<T> v, int n) {
  std::memcpy(p, &v, n * sizeof(T));
}

template <class T>
INLINE V<T> splat(T x) {
  return x - V<T>{};  // Not 0 + x, which is +0 for -0.
}

template <class T>
INLINE V<T> as_vector(I<T> bits) {
  V<T> v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

template <class T>
INLINE I<T> as_bits(V<T> v) {
  I<T> bits;
  std::memcpy(&bits, &v, sizeof(v));
  return bits;
}

// mask: all ones or all zeros a lane, as comparisons give.
template <class T>
INLINE V<T> choose(I<T> mask, V<T> yes, V<T> no) {
  return as_vector<T>((as_bits<T>(yes) & mask) | (as_bits<T>(no) & ~mask));
}

// sum + a b of every lane; or, where a lane is a pair of numbers in bfloat16, of both.
template <class T, bool pairs>
INLINE V<T> multiplied(V<T> a, V<T> b, V<T> sum) {
#if PAIRS
  if constexpr (pairs && WIDTH == 64 && sizeof(T) == 4)
    return V<T>(_mm512_dpbf16_ps(__m512(sum), __m512bh(a), __m512bh(b)));
#endif
  return sum + a * b;
}

// One lane for all.
template <class T, bool pairs>
INLINE V<T> repeated(const T* lane) {
  if constexpr (!pairs) return splat<T>(*lane);
  std::conditional_t<sizeof(T) == 4, int32_t, int64_t> bits;
  std::memcpy(&bits, lane, sizeof(T));
  return as_vector<T>(bits - I<T>{});
}

// ---- bfloat16 ------------------------------------------------------------------------------------
// The upper half of a float, rounded to the nearest, or to the even one of two; NaN stays.
INLINE V<float> rounded(V<float> x) {
  I<float> bits = as_bits<float>(x), odd = bits >> 16 & 1;
  I<float> number = x == x;
  bits = (number & (bits + 0x7fff + odd)) | (~number & (bits | 0x400000));
  return as_vector<float>(bits & int32_t(0xffff0000));
}

INLINE V<double> rounded(V<double> x) {
  for (int lane = 0; lane < N<double>; lane++)
    x[lane] = ::from_bfloat16(::to_bfloat16(float(x[lane])));
  return x;
}

// Rounded to float. GCC 12 leaves out T(float(x)) where it is written for one lane after another.
INLINE V<float> single(V<float> x) { return x; }

INLINE V<double> single(V<double> x) {
  typedef float Floats __attribute__((vector_size(WIDTH / 2)));
  return __builtin_convertvector(__builtin_convertvector(x, Floats), V<double>);
}

typedef uint16_t Halves __attribute__((vector_size(WIDTH / 2)));

// `n` numbers from bfloat16, and to it.
template <class T>
void from_bfloat16(const uint16_t* from, int64_t n, T* to) {
  int64_t j = 0;
  if constexpr (sizeof(T) == 4)
    for (; j + N<T> <= n; j += N<T>) {
      Halves bits;
      std::memcpy(&bits, from + j, sizeof(bits));
      store<T>(to + j, as_vector<T>(__builtin_convertvector(bits, I<T>) << 16));
    }
  for (; j < n; j++) to[j] = T(::from_bfloat16(from[j]));
}

template <class T>
void to_bfloat16(const T* from, int64_t n, uint16_t* to) {
  int64_t j = 0;
  if constexpr (sizeof(T) == 4)
    for (; j + N<T> <= n; j += N<T>) {
      I<T> bits = as_bits<T>(rounded(load<T>(from + j)));
      Halves halves = __builtin_convertvector(bits >> 16, Halves);
      std::memcpy(to + j, &halves, sizeof(halves));
    }
  for (; j < n; j++) to[j] = ::to_bfloat16(float(from[j]));
}

// N<T> numbers as integers of which the lower halves are their bits in bfloat16.
template <class T>
INLINE I<T> narrowed(const uint16_t* bits) {
  Halves halves;
  std::memcpy(&halves, bits, sizeof(halves));
  return __builtin_convertvector(halves, I<T>);
}
template <class T>
INLINE I<T> narrowed(const float* numbers) {
  return as_bits<T>(rounded(load<T>(numbers))) >> 16 & 0xffff;
}

// Lanes of `n` pairs: of `low` in the lower half, rounded to bfloat16, and of `high` in the upper one,
// or zero where there is no `high`.
template <class T, class E>
void interleave(const E* low, const E* high, int n, T* lanes) {
  int j = 0;
  if constexpr (sizeof(T) == 4)
    for (; high && j + N<T> <= n; j += N<T>)
      store<T>(lanes + j, as_vector<T>(narrowed<T>(low + j) | narrowed<T>(high + j) << 16));
  for (; j < n; j++) {
    uint16_t lane[2] = {::narrowed(low[j]), high ? ::narrowed(high[j]) : uint16_t(0)};
    std::memcpy(lanes + j, lane, sizeof(lane));
  }
}

template <class T>
INLINE V<T> absolute(V<T> x) {
  return as_vector<T>(as_bits<T>(x) & as_bits<T>(splat<T>(-0.0)) ^ as_bits<T>(x));
}

template <class T>
INLINE V<T> with_sign(V<T> magnitude, V<T> of) {
  return as_vector<T>(as_bits<T>(magnitude) | (as_bits<T>(of) & as_bits<T>(splat<T>(-0.0))));
}

// ---- exp ----------------------------------------------------------------------------------------
// x = k ln 2 + r with |r| <= ln 2 / 2; expm1(r) by its Taylor sum, with the rest below rounding.
template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  static constexpr float shift = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float high = 0.693145751953125f, low = 1.428606765330187e-06f;
  static constexpr float least = -104.f, most = 89.f;  // exp is 0 and infinite there
  static constexpr int terms = 7, bias = 127, mantissa = 23;
};

template <>
struct Exponential<double> {
  static constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10;
  static constexpr double least = -746., most = 710.;
  static constexpr int terms = 14, bias = 1023, mantissa = 52;
};

template <class T>
struct Reduced {
  I<T> k;
  V<T> expm1_r;
};

template <class T>
INLINE Reduced<T> reduce(V<T> x) {
  using E = Exponential<T>;
  const V<T> shift = splat<T>(E::shift);
  V<T> shifted = x * T(1.4426950408889634) + shift, k = shifted - shift;
  V<T> r = (x - k * E::high) - k * E::low;
  V<T> p = splat<T>(T(1) / factorial<T>(E::terms));
  for (int n = E::terms - 1; n >= 2; n--) p = p * r + T(1) / factorial<T>(n);
  // The low bits of `shifted` are k.
  return {as_bits<T>(shifted) - as_bits<T>(shift), r * r * p + r};
}

template <class T>
INLINE V<T> two_to_the(I<T> k) {
  return as_vector<T>((k + Exponential<T>::bias) << Exponential<T>::mantissa);
}

template <class T>
INLINE V<T> limited(V<T> x, T least, T most) {  // NaN stays.
  x = choose<T>(x < least, splat<T>(least), x);
  return choose<T>(x > most, splat<T>(most), x);
}

// In two factors, as neither 2^128 nor 2^-150 is a float.
template <class T>
INLINE V<T> exponential(V<T> x) {
  Reduced<T> of = reduce<T>(limited<T>(x, Exponential<T>::least, Exponential<T>::most));
  I<T> half = of.k >> 1;
  V<T> power = two_to_the<T>(half);
  return (power * of.expm1_r + power) * two_to_the<T>(of.k - half);
}

// e^x - 1 for x <= 0, to the last digits also where it is small.
template <class T>
INLINE V<T> expm1_below(V<T> x) {
  Reduced<T> of = reduce<T>(limited<T>(x, T(-40), T(0)));
  V<T> power = two_to_the<T>(of.k);
  return power * of.expm1_r + (power - T(1));
}

// tanh |x| = -e / (e + 2) with e = expm1(-2 |x|).
template <class T>
INLINE V<T> tangent(V<T> x) {
  V<T> e = expm1_below<T>(absolute<T>(x) * T(-2));
  return with_sign<T>(absolute<T>(e / (e + T(2))), x);
}

// sigmoid(-|x|) = e / (1 + e) with e = exp(-|x|), and one minus it on the other side.
template <class T>
INLINE V<T> logistic(V<T> x) {
  V<T> e = exponential<T>(-absolute<T>(x)), above = T(1) / (e + T(1));
  return choose<T>(x < T(0), e * above, above);
}
