// Products with a matrix whose columns lie one after another, without packing it: dot products.
//
// Included once for each instruction set, after matrices.h. For few rows of x a copy of W costs more
// than the product itself.

template <class T>
void add(T* to, const T* from, int64_t n) {
  for (int64_t j = 0; j < n; j++) to[j] += from[j];
}

constexpr int FEW = 4;  // rows of x, and columns of W, at a time
template <class T>
constexpr int REACH = 256 * N<T>;  // of K: terms that a lane is added to before the sum goes to y

// The sum of n numbers, a power of two, by halves.
template <class T, int n>
INLINE T sum_of(const T* p) {
  if constexpr (n == 1) {
    return *p;
  } else {
    typedef T Half __attribute__((vector_size(n / 2 * sizeof(T))));
    Half low, high;
    std::memcpy(&low, p, sizeof(Half));
    std::memcpy(&high, p + n / 2, sizeof(Half));
    low += high;
    T sums[n / 2];
    std::memcpy(sums, &low, sizeof(Half));
    return sum_of<T, n / 2>(sums);
  }
}

template <class T>
INLINE T sum_of(V<T> v) {
  T lanes[N<T>];
  store<T>(lanes, v);
  return sum_of<T, N<T>>(lanes);
}

// y = start + x W for `rows` rows and `columns` columns, at most FEW of each. Column c of W is
// w + c * stride; x, y and start are as in multiply_tile, and so are lanes of pairs.
template <class T, bool pairs, int rows>
void multiply_columns(const Matrix<const T>& x, const T* w, int64_t stride, int K,
                      const Matrix<const T>& start, const Matrix<T>& y, int columns) {
  const T* column[FEW];
  for (int c = 0; c < FEW; c++) column[c] = w + std::min(c, columns - 1) * stride;
  V<T> sum[rows][FEW] = {};
  auto add = [&](int k, auto... lanes) INLINE_LAMBDA {
    V<T> w_k[FEW];
    UNROLL for (int c = 0; c < FEW; c++) w_k[c] = load<T>(column[c] + k, lanes...);
    UNROLL for (int r = 0; r < rows; r++) {
      V<T> x_k = load<T>(x.data + r * x.row + k, lanes...);
      UNROLL for (int c = 0; c < FEW; c++) sum[r][c] = multiplied<T, pairs>(x_k, w_k[c], sum[r][c]);
    }
  };
  int k = 0;
  for (; k + N<T> <= K; k += N<T>) add(k);
  if (k < K) add(k, K - k);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++)
      *y.at(r, c) = (start.data ? *start.at(r, c) : T(0)) + sum_of<T>(sum[r][c]);
}

// y = start + x W for columns [first, last) of W and any number of rows. Columns that fit the second
// cache stay in it while all rows pass.
template <class T, bool pairs>
void dots(int64_t rows, const Matrix<const T>& x, const T* w, int64_t stride, int64_t K,
          const Matrix<const T>& start, const Matrix<T>& y, int64_t first, int64_t last) {
  using Columns = decltype(&multiply_columns<T, pairs, 1>);
  static constexpr Columns of_rows[FEW] = {
      multiply_columns<T, pairs, 1>, multiply_columns<T, pairs, 2>, multiply_columns<T, pairs, 3>,
      multiply_columns<T, pairs, 4>};
  const int64_t size = std::max<int64_t>(K, 1) * sizeof(T);
  const int64_t block = std::max<int64_t>(FEW, (128 << 10) / size / FEW * FEW);
  auto some = [&](int64_t r, int64_t m) {
    int n = int(std::min<int64_t>(rows - r, FEW)), columns = int(std::min<int64_t>(FEW, last - m));
    Matrix<T> y_m = {y.at(r, m), y.row, 1};
    Matrix<const T> from = {start.data ? start.at(r, m) : nullptr, start.row, 1};
    for (int64_t k = 0; k == 0 || k < K; k += REACH<T>, from = {y_m.data, y.row, 1})
      of_rows[n - 1]({x.at(r, k), x.row, 1}, w + m * stride + k, stride,
                     int(std::min<int64_t>(K - k, REACH<T>)), from, y_m, columns);
  };
  for (int64_t m0 = first; m0 < last; m0 += block)
    for (int64_t r = 0; r < rows; r += FEW)
      for (int64_t m = m0; m < std::min(m0 + block, last); m += FEW) some(r, m);
}
