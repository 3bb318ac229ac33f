// Where the numbers of matrices lie: as they are given, or in panels, of numbers or of pairs of them.
//
// Included once for each instruction set, after vector.h.

// Element (r, c) is data[r * row + c * column].
template <class T>
struct Matrix {
  T* data;
  int64_t row, column;

  T* at(int64_t r, int64_t c) const { return data + r * row + c * column; }
};

constexpr int PANEL = WIDTH == 64 ? 4 : 2;  // vectors side by side in a panel of W
template <class T>
constexpr int COLUMNS = PANEL * N<T>;

// COLUMNS columns of W, those of a row side by side.
template <class T>
struct Panel {
  const T* data;
  int64_t row;
};

inline int panels_of(int64_t M, int columns) { return int((M + columns - 1) / columns); }

// In T, what is of T or in bfloat16.
template <class T>
INLINE T number(T x) {
  return x;
}
template <class T>
INLINE T number(uint16_t bits) {
  return T(::from_bfloat16(bits));
}
template <class T>
INLINE void copy(const T* from, int64_t n, T* to) {
  std::memcpy(to, from, n * sizeof(T));
}
template <class T>
INLINE void copy(const uint16_t* from, int64_t n, T* to) {
  from_bfloat16<T>(from, n, to);
}

// `n` numbers in bfloat16, side by side in lanes.
template <class T>
INLINE void narrow(const T* from, int64_t n, T* lanes) {
  to_bfloat16<T>(from, n, reinterpret_cast<uint16_t*>(lanes));
}
template <class T>
INLINE void narrow(const uint16_t* from, int64_t n, T* lanes) {
  std::memcpy(lanes, from, n * sizeof(uint16_t));
}

// What a lane of x and of W is: a number, or two in bfloat16 that follow each other along K, which are
// multiplied together; for tiles there are as many lanes as whole tiles have, zeros at the end.
enum class Form { numbers, pairs, tiles };

inline int lanes_of(Form form, int K) {
  if (form == Form::numbers) return K;
  return form == Form::pairs ? (K + 1) / 2 : (K + 31) / 32 * 16;
}

// The form for a factor in bfloat16 beside `rows` rows of the other. A tile takes as long for one row
// as for sixteen.
template <class T>
Form narrow_form(int64_t rows) {
  constexpr bool whole = sizeof(T) == 4 && COLUMNS<T> % 16 == 0;
  if (whole && tiles_used && rows >= 4) return Form::tiles;
  return WIDTH == 64 && sizeof(T) == 4 && pairs_here ? Form::pairs : Form::numbers;
}

// Whether columns that lie one after another are lanes as they lie, and they as such.
template <class T, class E>
bool are_columns(Form form, const Matrix<const E>& w, int K) {
  if (form == Form::numbers) return std::is_same_v<E, T>;
  return form == Form::pairs && std::is_same_v<E, uint16_t> && K % 2 == 0 && w.column % 2 == 0;
}
template <class T, class E>
Matrix<const T> columns_of(Form form, const Matrix<const E>& w) {
  return {reinterpret_cast<const T*>(w.data), 1, form == Form::pairs ? w.column / 2 : w.column};
}

// Columns [m, m + width) of K rows of w, each row padded with zeros.
template <class T, class E>
void pack_numbers(const Matrix<const E>& w, int K, int64_t m, int width, T* panel) {
  constexpr int C = COLUMNS<T>;
  if (w.column == 1) {
    for (int k = 0; k < K; k++) copy<T>(w.at(k, m), width, panel + size_t(k) * C);
    return;
  }
  for (int k0 = 0; k0 < K; k0 += 16)  // A line of the cache holds 16 floats of a column.
    for (int c = 0; c < width; c++)
      for (int k = k0; k < std::min(K, k0 + 16); k++)
        panel[size_t(k) * C + c] = number<T>(*w.at(k, m + c));
}

// Lane k along a row or column of E: numbers 2 k and 2 k + 1, which are `apart`, of K.
template <class T, class E>
INLINE void set_pair(const E* numbers, int64_t apart, int k, int K, T* lane) {
  const E* low = numbers + 2 * k * apart;
  uint16_t pair[2] = {::narrowed(*low), 2 * k + 1 < K ? ::narrowed(low[apart]) : uint16_t(0)};
  std::memcpy(lane, pair, sizeof(pair));
}

template <class T, class E>
void pack_pairs(const Matrix<const E>& w, int K, int64_t m, int width, T* panel) {
  constexpr int C = COLUMNS<T>;
  const int pairs = lanes_of(Form::pairs, K);
  if (w.column == 1) {
    for (int k = 0; k < pairs; k++)
      interleave<T>(w.at(2 * k, m), 2 * k + 1 < K ? w.at(2 * k + 1, m) : nullptr, width,
                    panel + size_t(k) * C);
    return;
  }
  for (int k0 = 0; k0 < pairs; k0 += 16)
    for (int c = 0; c < width; c++)
      for (int k = k0; k < std::min(pairs, k0 + 16); k++)
        set_pair(w.at(0, m + c), w.row, k, K, panel + size_t(k) * C + c);
}

// A panel of the columns [m, m + width), of lanes_of(form, K) rows.
template <class T, class E>
void pack(Form form, const Matrix<const E>& w, int K, int64_t m, int width, T* panel) {
  constexpr int C = COLUMNS<T>;
  const int lanes = lanes_of(form, K), full = lanes_of(Form::pairs, K);
  if (width < C) std::fill_n(panel, size_t(lanes) * C, T(0));
  else if (form == Form::tiles) std::fill_n(panel + size_t(full) * C, size_t(lanes - full) * C, T(0));
  if (form == Form::numbers) pack_numbers<T>(w, K, m, width, panel);
  else pack_pairs<T>(w, K, m, width, panel);
}

// Rows [0, R) of x in T: itself, or in `place` what lies in bfloat16.
template <class T, class E>
Matrix<const T> widened(const Matrix<const E>& x, int R, int K, T* place) {
  if constexpr (std::is_same_v<E, T>) {
    return x;
  } else {
    const bool rows = x.column == 1;
    for (int k = 0; k < (rows ? R : K); k++)
      copy<T>(rows ? x.at(k, 0) : x.at(0, k), rows ? K : R, place + int64_t(k) * (rows ? K : R));
    return rows ? Matrix<const T>{place, K, 1} : Matrix<const T>{place, 1, R};
  }
}

// Whether rows of K numbers are lanes as they lie.
template <class T, class E>
bool are_lanes(Form form, const Matrix<const E>& x, int K) {
  return std::is_same_v<E, uint16_t> && form != Form::numbers && x.column == 1 && x.row % 2 == 0 &&
         2 * lanes_of(form, K) == K;
}

// The same in lanes of pairs, which begin at `place` if x is not so itself.
template <class T, class E>
Matrix<const T> paired(Form form, const Matrix<const E>& x, int R, int K, T* place) {
  const int lanes = lanes_of(form, K), pairs = lanes_of(Form::pairs, K);
  if (are_lanes<T>(form, x, K)) return {reinterpret_cast<const T*>(x.data), x.row / 2, 1};
  if (x.column != 1 && form == Form::pairs) {
    for (int k = 0; k < pairs; k++)
      interleave<T>(x.at(0, 2 * k), 2 * k + 1 < K ? x.at(0, 2 * k + 1) : nullptr, R,
                    place + int64_t(k) * R);
    return {place, 1, R};
  }
  if (lanes * 2 > K)
    for (int r = 0; r < R; r++)
      std::fill_n(place + int64_t(r) * lanes + K / 2, lanes - K / 2, T(0));
  for (int r = 0; r < R && x.column == 1; r++)
    narrow<T>(x.at(r, 0), K, place + int64_t(r) * lanes);
  for (int k0 = 0; k0 < pairs && x.column != 1; k0 += 16)
    for (int r = 0; r < R; r++)
      for (int k = k0; k < std::min(pairs, k0 + 16); k++)
        set_pair(x.at(r, 0), x.column, k, K, place + int64_t(r) * lanes + k);
  return {place, lanes, 1};
}

// Rows in the form of a panel's.
template <class T, class E>
Matrix<const T> lanes(Form form, const Matrix<const E>& x, int R, int K, T* place) {
  return form == Form::numbers ? widened<T>(x, R, K, place) : paired<T>(form, x, R, K, place);
}

// One row, in any case at `place`.
template <class T, class E>
void gather(Form form, const Matrix<const E>& x, int K, T* place) {
  Matrix<const T> row = lanes<T>(form, x, 1, K, place);
  if (row.data != place) std::copy_n(row.data, lanes_of(form, K), place);
}
