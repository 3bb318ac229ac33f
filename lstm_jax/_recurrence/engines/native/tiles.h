// Products of panels of pairs by tile registers: 32 rows of x times 32 columns at a time.
//
// Included once for each instruction set, after matrices.h. Two registers of x and two of W are read
// for four products.

constexpr int SIDE = 16;  // rows, columns and lanes of a register
constexpr int CHAIN = 512;  // lanes that one number is added to before the sum goes to y

// to = start + sums for `n` numbers; start may be `to` itself or null for zero.
template <class T>
void add_sums(const T* start, const T* sums, int n, T* to) {
  int j = 0;
  for (; j + N<T> <= n; j += N<T>)
    store<T>(to + j, start ? load<T>(start + j) + load<T>(sums + j) : load<T>(sums + j));
  for (; j < n; j++) to[j] = start ? start[j] + sums[j] : sums[j];
}

// y = start + x W for at most 32 rows, of which the registers have the shapes, and at most 32 columns.
template <class T>
void multiply_square(int rows, const Matrix<const T>& x, const Panel<T>& W, int lanes,
                     const Matrix<const T>& start, const Matrix<T>& y, int columns) {
  const int64_t x_row = x.row * sizeof(T), w_row = W.row * sizeof(T);
  const bool down = rows > SIDE, right = columns > SIDE;
  tile::zero<0>(), tile::zero<1>();
  if (down) tile::zero<2>(), tile::zero<3>();
  for (int k = 0; k < lanes; k += SIDE) {
    const T* w_k = W.data + k * W.row;
    tile::load<4>(x.at(0, k), x_row);
    tile::load<6>(w_k, w_row);
    tile::multiply<0, 4, 6>();
    if (down) tile::load<5>(x.at(SIDE, k), x_row), tile::multiply<2, 5, 6>();
    if (!right) continue;
    tile::load<7>(w_k + SIDE, w_row);
    tile::multiply<1, 4, 7>();
    if (down) tile::multiply<3, 5, 7>();
  }
  alignas(64) T sums[2 * SIDE][2 * SIDE];
  constexpr int64_t row = sizeof(sums[0]);
  tile::store<0>(sums[0], row), tile::store<1>(sums[0] + SIDE, row);
  if (down) tile::store<2>(sums[SIDE], row), tile::store<3>(sums[SIDE] + SIDE, row);
  for (int r = 0; r < rows; r++)
    add_sums<T>(start.data ? start.at(r, 0) : nullptr, sums[r], columns, y.at(r, 0));
}

// y = start + x W for any number of rows and `width` columns of one panel; x and the panel have as
// many lanes as whole registers.
template <class T>
void multiply_tiles(tile::Held& held, int rows, const Matrix<const T>& x, const Panel<T>& panel,
                    int lanes, const Matrix<const T>& start, const Matrix<T>& y, int width) {
  for (int r = 0; r < rows; r += 2 * SIDE) {
    const int n = std::min(rows - r, 2 * SIDE);
    held.rows(std::min(n, SIDE), std::max(n - SIDE, 0));
    for (int c = 0; c < width; c += 2 * SIDE) {
      Matrix<const T> from = {start.data ? start.at(r, c) : nullptr, start.row, 1};
      for (int k = 0; k == 0 || k < lanes; k += CHAIN, from = {y.at(r, c), y.row, 1})
        multiply_square<T>(n, {x.at(r, k), x.row, 1}, {panel.data + k * panel.row + c, panel.row},
                           std::min(lanes - k, CHAIN), from, {y.at(r, c), y.row, 1},
                           std::min(width - c, 2 * SIDE));
    }
  }
}
