// Products of matrices, from one kernel: a few rows of x times a panel of W.
//
// Included once for each instruction set, after dots.h. The accumulators are registers; W lies in
// panels, so that it is read from one end to the other.

constexpr int PANEL = WIDTH == 64 ? 4 : 2;  // vectors side by side in a panel of W
constexpr int ROWS = WIDTH == 16 ? 4 : 6;   // rows of x at a time
constexpr int CHAIN = 512;  // terms that one number is added to before the sum goes to y
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

// Columns [m, m + width) of K rows of w, each row padded with zeros.
template <class T, class E>
void pack(const Matrix<const E>& w, int K, int64_t m, int width, T* panel) {
  constexpr int C = COLUMNS<T>;
  if (width < C) std::fill_n(panel, size_t(K) * C, T(0));
  if (w.column == 1) {
    for (int k = 0; k < K; k++) copy<T>(w.at(k, m), width, panel + size_t(k) * C);
    return;
  }
  for (int k0 = 0; k0 < K; k0 += 16)  // A line of the cache holds 16 floats of a column.
    for (int c = 0; c < width; c++)
      for (int k = k0; k < std::min(K, k0 + 16); k++)
        panel[size_t(k) * C + c] = number<T>(*w.at(k, m + c));
}

// K rows in bfloat16 as a panel of pairs: a lane has row 2 k in its lower half, and row 2 k + 1.
template <class T>
void pack_pairs(const Matrix<const uint16_t>& w, int K, int64_t m, int width, T* panel) {
  constexpr int C = COLUMNS<T>;
  if (width < C) std::fill_n(panel, size_t(K + 1) / 2 * C, T(0));
  for (int k = 0; k < K; k += 2, panel += C) {
    int c = 0;
    if (w.column == 1 && k + 1 < K)
      for (; c + N<T> <= width; c += N<T>)
        interleave<T>(w.at(k, m + c), w.at(k + 1, m + c), panel + c);
    for (; c < width; c++) {
      uint16_t lane[2] = {*w.at(k, m + c), k + 1 < K ? *w.at(k + 1, m + c) : uint16_t(0)};
      std::memcpy(panel + c, lane, sizeof(lane));
    }
  }
}

// One W [K, M] that all time steps share: packed, or as it lies where its columns lie one after
// another, no thread has more than a few rows for it, and it is large. Packing a small one costs
// less than many dot products of short columns.
template <class T>
struct Weights {
  int K, M, panels;
  Matrix<const T> w;
  bool lies, pairs = false;
  Scratch<T> data;

  Weights(ffi::ThreadPool& pool, const Matrix<const T>& w, int K, int M, int rows = FEW + 1)
      : K(K), M(M), panels(panels_of(M, COLUMNS<T>)), w(w),
        lies(w.row == 1 && rows <= FEW && size_t(K) * M * sizeof(T) > (256 << 10)),
        data(lies ? 0 : size_t(panels) * K * COLUMNS<T>) {
    if (lies) return;
    each_panel(pool, [&](int p) { pack<T, T>(w, K, p * COLUMNS<T>, width(p), panel(p)); });
  }
  // Of numbers in bfloat16 `paired` asks for pairs, if the machine multiplies them.
  Weights(ffi::ThreadPool& pool, const Matrix<const uint16_t>& w, int K, int M, bool paired)
      : K(K), M(M), panels(panels_of(M, COLUMNS<T>)), w{}, lies(false),
        pairs(paired && multiplies_pairs<T>()), data(size_t(panels) * depth() * COLUMNS<T>) {
    each_panel(pool, [&](int p) {
      if (pairs) pack_pairs<T>(w, K, p * COLUMNS<T>, width(p), panel(p));
      else pack<T>(w, K, p * COLUMNS<T>, width(p), panel(p));
    });
  }
  // Rows of a panel.
  int depth() const { return pairs ? (K + 1) / 2 : K; }
  T* panel(int p) const { return data.data() + size_t(p) * depth() * COLUMNS<T>; }
  int width(int p) const { return std::min(COLUMNS<T>, M - p * COLUMNS<T>); }

 private:
  // By one thread where waking another takes longer than the copy.
  template <class F>
  void each_panel(ffi::ThreadPool& pool, const F& f) const {
    auto some = [&](int, int first, int last) {
      for (int p = first; p < last; p++) f(p);
    };
    if (int64_t(K) * M <= 16384) some(0, 0, panels);
    else split(pool, panels, some);
  }
};

// y = start + x W for `rows` rows and the first `vectors` vectors of a panel; start may be y itself,
// or have no data for zero, and is added last: a sum that begins with a large number loses digits at
// every term. Nothing is called in it, so that all sums stay in registers; each may be kept in parts,
// since an addition waits for the one before it. Where lanes are pairs of numbers, K counts pairs.
template <class T, bool pairs, int parts, int rows, int vectors>
void multiply_tile(const Matrix<const T>& x, const Panel<T>& W, int K,
                   const Matrix<const T>& start, const Matrix<T>& y) {
  V<T> sum[parts][rows][vectors] = {};
  const T *x_k = x.data, *w_k = W.data;
  auto add = [&](int part) INLINE_LAMBDA {
    V<T> w[vectors];
    UNROLL for (int v = 0; v < vectors; v++) w[v] = load<T>(w_k + v * N<T>);
    UNROLL for (int r = 0; r < rows; r++) {
      V<T> x_rk = repeated<T, pairs>(x_k + r * x.row);
      UNROLL for (int v = 0; v < vectors; v++)
        sum[part][r][v] = multiplied<T, pairs>(x_rk, w[v], sum[part][r][v]);
    }
    w_k += W.row, x_k += x.column;
  };
  int k = 0;
  for (; k + parts <= K; k += parts) UNROLL for (int part = 0; part < parts; part++) add(part);
  if constexpr (parts > 1)
    for (; k < K; k++) add(0);
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int v = 0; v < vectors; v++) {
      V<T> whole = sum[0][r][v];
      UNROLL for (int part = 1; part < parts; part++) whole += sum[part][r][v];
      if (start.data) whole += load<T>(start.data + r * start.row + v * N<T>);
      store<T>(y.data + r * y.row + v * N<T>, whole);
    }
}

template <class T>
using Tile = void (*)(const Matrix<const T>&, const Panel<T>&, int, const Matrix<const T>&,
                      const Matrix<T>&);

// Those of one row to ROWS, of one number of vectors.
template <class T, bool pairs, int vectors, int... r>
constexpr std::array<Tile<T>, ROWS> tiles(std::integer_sequence<int, r...>) {
  return {multiply_tile<T, pairs, 1, r + 1, vectors>...};
}

template <class T, bool pairs, int... v>
constexpr std::array<std::array<Tile<T>, ROWS>, PANEL> tiles_of_all(
    std::integer_sequence<int, v...>) {
  return {tiles<T, pairs, v + 1>(std::make_integer_sequence<int, ROWS>())...};
}

// Those of a row alone, with enough sums for none to be waited for.
template <class T, bool pairs, int... v>
constexpr std::array<Tile<T>, PANEL> tiles_of_one(std::integer_sequence<int, v...>) {
  return {multiply_tile<T, pairs, 8 / (v + 1), 1, v + 1>...};
}

// A tile of whole vectors, CHAIN terms at a time.
template <class T>
void multiply_chains(Tile<T> tile, const Matrix<const T>& x, const Panel<T>& panel, int K,
                     const Matrix<const T>& start, const Matrix<T>& y) {
  tile(x, panel, std::min(K, CHAIN), start, y);
  for (int k = CHAIN; k < K; k += CHAIN)
    tile({x.at(0, k), x.row, x.column}, {panel.data + k * panel.row, panel.row},
         std::min(K - k, CHAIN), {y.data, y.row, 1}, y);
}

// A tile of `rows` rows and `width` columns, which need not be whole vectors.
template <class T>
void multiply_part(Tile<T> tile, int rows, const Matrix<const T>& x, const Panel<T>& panel, int K,
                   const Matrix<const T>& start, const Matrix<T>& y, int width) {
  constexpr int C = COLUMNS<T>;
  if (width % N<T> == 0) return multiply_chains<T>(tile, x, panel, K, start, y);
  T whole[ROWS * C] = {};
  for (int r = 0; start.data && r < rows; r++) std::copy_n(start.at(r, 0), width, whole + r * C);
  multiply_chains<T>(tile, x, panel, K, {whole, C, 1}, {whole, C, 1});
  for (int r = 0; r < rows; r++) std::copy_n(whole + r * C, width, y.at(r, 0));
}

// y = start + x W for any number of rows and `width` columns of one panel, in tiles of about one
// size. A row's sums do not depend on how many others there are.
template <class T, bool pairs = false>
void multiply_rows(int rows, const Matrix<const T>& x, const Panel<T>& panel, int K,
                   const Matrix<const T>& start, const Matrix<T>& y, int width) {
  static constexpr auto all = tiles_of_all<T, pairs>(std::make_integer_sequence<int, PANEL>());
  const std::array<Tile<T>, ROWS>& tile = all[(width + N<T> - 1) / N<T> - 1];
  int count = (rows + ROWS - 1) / ROWS;
  for (int k = 0, r = 0; k < count; k++) {
    int next = int(int64_t(rows) * (k + 1) / count), n = next - r;
    Matrix<const T> from = {start.data ? start.at(r, 0) : nullptr, start.row, 1};
    multiply_part<T>(tile[n - 1], n, {x.at(r, 0), x.row, x.column}, panel, K, from,
                     {y.at(r, 0), y.row, 1}, width);
    r = next;
  }
}

// The same for one row, where no sequence has another beside it.
template <class T, bool pairs>
void multiply_row(int, const Matrix<const T>& x, const Panel<T>& panel, int K,
                  const Matrix<const T>& start, const Matrix<T>& y, int width) {
  static constexpr auto all = tiles_of_one<T, pairs>(std::make_integer_sequence<int, PANEL>());
  multiply_part<T>(all[(width + N<T> - 1) / N<T> - 1], 1, x, panel, K, start, y, width);
}

// y [rows, M] = start + x [rows, K] W for panels [first, last). A panel stays in the cache while all
// rows pass it. Who multiplies by W again and again walks it to and fro (`back`): where W is larger
// than the cache, what the last walk read at its end is still there. `alone`: there is one row, and no
// sequence beside it.
template <class T>
void times(const Weights<T>& W, int rows, const Matrix<const T>& x, const Matrix<const T>& start,
           const Matrix<T>& y, int first, int last, bool back, bool alone) {
  if (W.lies)
    return dots<T>(rows, x, W.w.data, W.w.column, W.K, start, y, first * COLUMNS<T>,
                   std::min(W.M, last * COLUMNS<T>));
  for (int k = first; k < last; k++) {
    int p = back ? first + last - 1 - k : k, m = p * COLUMNS<T>;
    Matrix<const T> from = {start.data ? start.at(0, m) : nullptr, start.row, 1};
    auto of = [=](auto pairs) { return alone ? multiply_row<T, pairs> : multiply_rows<T, pairs>; };
    auto multiply = W.pairs ? of(std::true_type()) : of(std::false_type());
    multiply(rows, x, {W.panel(p), COLUMNS<T>}, W.depth(), from, {y.at(0, m), y.row, 1},
             W.width(p));
  }
}
