// Numbers: the functions of the printed programs that C++ has no name for; arrays in two dtypes.

INLINE float truth(bool is) { return is ? 1.f : 0.f; }
// NaN where one of them is.
INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }
INLINE float smaller(float a, float b) { return a < b || a != a ? a : b; }
INLINE float sign(float x) { return x == 0.f || x != x ? x : copysignf(1.f, x); }
INLINE float logistic(float x) {
  const float e = expf(-fabsf(x)), above = 1.f / (1.f + e);
  return x < 0.f ? e * above : above;
}
INLINE float to_bfloat16(float x) { return from_bits(to_bits(x)); }

// Number k of an array in float32 or bfloat16.
template <bool narrow>
INLINE float number_at(const void* array, int64_t k) {
  if (narrow) return from_bits(static_cast<const uint16_t*>(array)[k]);
  return static_cast<const float*>(array)[k];
}
template <bool narrow>
INLINE void set_number(void* array, int64_t k, float x) {
  if (narrow) static_cast<uint16_t*>(array)[k] = to_bits(x);
  else static_cast<float*>(array)[k] = x;
}

// The number of h, or of a cotangent, as it enters the product.
#if NARROW
typedef uint16_t X;
INLINE X as_x(float x) { return to_bits(x); }
#else
typedef float X;
INLINE X as_x(float x) { return x; }
#endif
