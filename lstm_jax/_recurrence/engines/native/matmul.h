// Products of matrices, from one kernel: a few rows of x times a panel of W.
//
// Included once for each instruction set, after dots.h. The accumulators are registers; W lies in
// panels, so that it is read from one end to the other.

constexpr int ROWS = WIDTH == 16 ? 4 : 6;  // rows of x at a time

// One W [K, M] that all time steps share: packed, or as it lies where its columns lie one after
// another, no thread has more than a few rows for it, and it is large. Packing a small one costs
// less than many dot products of short columns.
template <class T>
struct Weights {
  int K, M, panels;
  Form form;
  Matrix<const T> w{};  // what lies, in lanes
  bool lies;
  Scratch<T> data;

  template <class E>
  Weights(ffi::ThreadPool& pool, const Matrix<const E>& w, int K, int M, Form form, int rows)
      : K(K), M(M), panels(panels_of(M, COLUMNS<T>)), form(form),
        lies(w.row == 1 && rows <= FEW && size_t(K) * M * sizeof(E) > (256 << 10) &&
             are_columns<T>(form, w, K)),
        data(lies ? 0 : size_t(panels) * lanes() * COLUMNS<T>) {
    if (lies) this->w = columns_of<T>(form, w);
    else each_panel(pool, [&](int p) { pack<T>(form, w, K, p * COLUMNS<T>, width(p), panel(p)); });
  }
  // Rows of a panel.
  int lanes() const { return lanes_of(form, K); }
  T* panel(int p) const { return data.data() + size_t(p) * lanes() * COLUMNS<T>; }
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
template <class T, bool pairs>
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

// Rows of lanes of one form times a panel. `alone`: there is one row, and no sequence beside it.
template <class T>
class Multiplier {
  Form form;
  bool alone;
  tile::Held held;

 public:
  explicit Multiplier(Form form, bool alone = false) : form(form), alone(alone) {}
  void operator()(int rows, const Matrix<const T>& x, const Panel<T>& panel, int lanes,
                  const Matrix<const T>& start, const Matrix<T>& y, int width) {
    if (form == Form::tiles)
      return multiply_tiles<T>(held, rows, x, panel, lanes, start, y, width);
    auto of = [=](auto pairs) { return alone ? multiply_row<T, pairs> : multiply_rows<T, pairs>; };
    auto multiply = form == Form::pairs ? of(std::true_type()) : of(std::false_type());
    multiply(rows, x, panel, lanes, start, y, width);
  }
};

// y [rows, M] = start + x [rows, K] W for panels [first, last). A panel stays in the cache while all
// rows pass it. Who multiplies by W again and again walks it to and fro (`back`): where W is larger
// than the cache, what the last walk read at its end is still there.
template <class T>
void times(const Weights<T>& W, int rows, const Matrix<const T>& x, const Matrix<const T>& start,
           const Matrix<T>& y, int first, int last, bool back, bool alone) {
  if (W.lies) {
    auto multiply = W.form == Form::pairs ? dots<T, true> : dots<T, false>;
    return multiply(rows, x, W.w.data, W.w.column, W.lanes(), start, y, first * COLUMNS<T>,
                    std::min(W.M, last * COLUMNS<T>));
  }
  Multiplier<T> multiply(W.form, alone);
  for (int k = first; k < last; k++) {
    int p = back ? first + last - 1 - k : k, m = p * COLUMNS<T>;
    Matrix<const T> from = {start.data ? start.at(0, m) : nullptr, start.row, 1};
    multiply(rows, x, {W.panel(p), COLUMNS<T>}, W.lanes(), from, {y.at(0, m), y.row, 1},
             W.width(p));
  }
}
