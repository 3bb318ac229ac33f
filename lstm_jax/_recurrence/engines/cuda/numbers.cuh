// Numbers: the functions of the printed programs that C++ has no name for; arrays in three dtypes.

INLINE float truth(bool is) { return is ? 1.f : 0.f; }
// NaN where one of them is.
INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }
INLINE float smaller(float a, float b) { return a < b || a != a ? a : b; }
INLINE float sign(float x) { return x == 0.f || x != x ? x : copysignf(1.f, x); }
INLINE float logistic(float x) {
  const float e = expf(-fabsf(x)), above = 1.f / (1.f + e);
  return x < 0.f ? e * above : above;
}

// Numbers of 16 bits: of kind 1 in bfloat16, of kind 2 in float16; kind 0 is float32.
template <int kind>
INLINE float from_16(uint16_t bits) {
  return kind == 2 ? from_half(bits) : from_bits(bits);
}
template <int kind>
INLINE uint16_t to_16(float x) {
  return kind == 2 ? to_half(x) : to_bits(x);
}
template <int kind>
INLINE float rounded_to(float x) {
  return kind ? from_16<kind>(to_16<kind>(x)) : x;
}

// Number k of an array.
template <int kind>
INLINE float number_at(const void* array, int64_t k) {
  if (kind) return from_16<kind>(static_cast<const uint16_t*>(array)[k]);
  return static_cast<const float*>(array)[k];
}
template <int kind>
INLINE void set_number(void* array, int64_t k, float x) {
  if (kind) static_cast<uint16_t*>(array)[k] = to_16<kind>(x);
  else static_cast<float*>(array)[k] = x;
}

// The number of h, or of a cotangent, as it enters the product.
#if NARROW
typedef uint16_t X;
INLINE X as_x(float x) { return to_16<NARROW>(x); }
#else
typedef float X;
INLINE X as_x(float x) { return rounded_to<ROUNDED>(x); }
#endif
