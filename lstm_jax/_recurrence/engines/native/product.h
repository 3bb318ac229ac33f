// Large products, once a call: of all time steps.
//
// Included once for each instruction set, after matmul.h.

constexpr int FEW_ROWS = 48;  // of A, for which a copy of B does not pay

// C [R, M] = start + A [R, K] B [K, M] for panels [first, last) and rows [r0, r1): by blocks of the
// depth K, whose panels of B fit the second cache beside a block of A.
template <class T, class E, class F>
void product_piece(const Matrix<const E>& A, const Matrix<const F>& B, const Matrix<const T>& start,
                   const Matrix<T>& C, int K, int64_t M, int first, int last, int64_t r0,
                   int64_t r1) {
  // Beside a factor in bfloat16 the other is rounded to it, where the machine multiplies such.
  constexpr bool plain = std::is_same_v<E, T> && std::is_same_v<F, T>;
  const int64_t rows = r1 - r0;
  const Form form = plain ? Form::numbers : narrow_form<T>(rows);
  if (B.row == 1 && A.column == 1 && rows <= FEW_ROWS && are_columns<T>(form, B, K)) {
    Scratch<T> of_A(plain ? 0 : size_t(rows) * K);
    Matrix<const T> x = lanes<T, E>(form, {A.at(r0, 0), A.row, 1}, int(rows), K, of_A.data());
    Matrix<const T> w = columns_of<T>(form, B);
    Matrix<const T> from = {start.data ? start.at(r0, 0) : nullptr, start.row, 1};
    auto multiply = form == Form::pairs ? dots<T, true> : dots<T, false>;
    return multiply(rows, x, w.data, w.column, lanes_of(form, K), from, {C.at(r0, 0), C.row, 1},
                    int64_t(first) * COLUMNS<T>, std::min<int64_t>(M, int64_t(last) * COLUMNS<T>));
  }
  const int most = form == Form::numbers ? 512 : 1024, block = 96;
  const int depth = std::max(1, K <= most ? K : most / 2), deep = lanes_of(form, depth);
  // B will do as it lies where its rows are not so far apart that they fall upon each other in the
  // cache, or where too few rows of A would make up for the copy.
  const bool lies = form == Form::numbers && std::is_same_v<F, T> && B.column == 1 &&
                    (B.row <= 512 || rows <= FEW_ROWS);
  Scratch<T> packed(size_t(last - first) * deep * COLUMNS<T>);
  Scratch<T> of_A(plain ? 0 : size_t(block) * deep);
  std::vector<Panel<T>> panels(last - first);
  Multiplier<T> multiply(form);
  auto width = [=](int p) {
    return int(std::min<int64_t>(COLUMNS<T>, M - int64_t(p) * COLUMNS<T>));
  };
  for (int k = 0; k < std::max(1, K); k += depth) {
    const int d = std::min(depth, K - k), n_k = lanes_of(form, d);
    for (int p = first; p < last; p++) {
      int64_t m = int64_t(p) * COLUMNS<T>;
      T* place = packed.data() + size_t(p - first) * n_k * COLUMNS<T>;
      panels[p - first] = {place, COLUMNS<T>};
      if constexpr (std::is_same_v<F, T>)
        if (lies && width(p) == COLUMNS<T>) {
          panels[p - first] = {B.at(k, m), B.row};
          continue;
        }
      pack<T, F>(form, {B.at(k, 0), B.row, B.column}, d, m, width(p), place);
    }
    for (int64_t r = r0; r < r1; r += block) {
      int n = int(std::min<int64_t>(block, r1 - r));
      Matrix<const T> A_r =
          lanes<T, E>(form, {A.at(r, k), A.row, A.column}, n, d, of_A.data());
      for (int p = first; p < last; p++) {
        int64_t m = int64_t(p) * COLUMNS<T>;
        Matrix<const T> from = {start.data ? start.at(r, m) : nullptr, start.row, 1};
        if (k) from = {C.at(r, m), C.row, 1};
        multiply(n, A_r, panels[p - first], n_k, from, {C.at(r, m), C.row, 1}, width(p));
      }
    }
  }
}

// The same for any K, in pieces of it that are summed each from zero. With the blocks and the chains
// inside, no number is added to more often than about the square root of K.
template <class T, class E, class F>
void product_part(const Matrix<const E>& A, const Matrix<const F>& B, const Matrix<const T>& start,
                  const Matrix<T>& C, int64_t K, int64_t M, int first, int last, int64_t r0,
                  int64_t r1) {
  constexpr int64_t piece = 16384, some = 1024;  // terms, and rows that a piece has at a time
  const int64_t m = int64_t(first) * COLUMNS<T>, width = std::min(M, int64_t(last) * COLUMNS<T>) - m;
  Scratch<T> place(K > piece ? std::min(r1 - r0, some) * width : 0);
  for (int64_t r = r0; r < r1; r += K > piece ? some : r1 - r0) {
    int64_t end = K > piece ? std::min(r + some, r1) : r1;
    product_piece<T, E, F>(A, B, start, C, int(std::min(K, piece)), M, first, last, r, end);
    Matrix<T> sums = {place.data() - r * width - m, width, 1};
    for (int64_t k = piece; k < K; k += piece) {
      product_piece<T, E, F>({A.at(0, k), A.row, A.column}, {B.at(k, 0), B.row, B.column},
                             {nullptr, 0, 1}, sums, int(std::min(K - k, piece)), M, first, last, r,
                             end);
      for (int64_t row = r; row < end; row++) add<T>(C.at(row, m), sums.at(row, m), width);
    }
  }
}

// Panels go to different threads where there are enough of them, or else rows; and rows where A is
// rounded, which all panels want, and is the larger.
template <class T, class E, class F>
void product(ffi::ThreadPool& pool, const Matrix<const E>& A, const Matrix<const F>& B,
             const Matrix<const T>& start, const Matrix<T>& C, int64_t R, int64_t K, int64_t M) {
  int panels = panels_of(M, COLUMNS<T>), n = threads(pool);
  // Waking a thread takes longer: LSTM T 32 B 1 H 64 (5e5) gained a tenth by one thread alone, and T 16
  // H 128 (1e6) lost a seventh.
  if (double(R) * K * M < 8e5)
    return product_part<T, E, F>(A, B, start, C, K, M, 0, panels, 0, R);
  const bool rounded = !std::is_same_v<E, uint16_t> && std::is_same_v<F, uint16_t>;
  if ((panels % n == 0 || panels >= 4 * n) && !(rounded && R > M))
    return split(pool, panels, [&](int, int64_t first, int64_t last) {
      product_part<T, E, F>(A, B, start, C, K, M, int(first), int(last), 0, R);
    });
  split(pool, R, [&](int, int64_t r0, int64_t r1) {
    product_part<T, E, F>(A, B, start, C, K, M, 0, panels, r0, r1);
  });
}

// The products of a call; many go to different threads whole.
template <class T, class E, class F>
void products(ffi::ThreadPool& pool, const E* a, const F* b, const T* start, T* c,
              const ProductCall& call) {
  int64_t R = call.R, K = call.K, M = call.M;
  auto with = [&](int64_t k, auto function) {
    const E* a_k = a + k * R * K;
    const F* b_k = b + k * K * M;
    Matrix<const E> A = call.a_first ? Matrix<const E>{a_k, 1, R} : Matrix<const E>{a_k, K, 1};
    Matrix<const F> B = call.b_first ? Matrix<const F>{b_k, M, 1} : Matrix<const F>{b_k, 1, K};
    Matrix<const T> from = {start ? start + k * M : nullptr, 0, 1};
    function(A, B, from, Matrix<T>{c + k * R * M, M, 1});
  };
  if (call.members < 2 * threads(pool)) {
    for (int64_t k = 0; k < call.members; k++)
      with(k, [&](auto... all) { product<T, E, F>(pool, all..., R, K, M); });
    return;
  }
  split(pool, call.members, [&](int, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k++)
      with(k, [&](auto... all) {
        product_part<T, E, F>(all..., K, M, 0, panels_of(M, COLUMNS<T>), 0, R);
      });
  });
}

// a [R, K] or [K, R], b [K, M] or [M, K], both without gaps, of T or by the bits of bfloat16.
template <class T>
void product_call(ffi::ThreadPool& pool, const void* a, const void* b, const T* start, T* c,
                  const ProductCall& call) {
  auto with = [&](const auto* a) {
    if (call.b_narrow) products(pool, a, static_cast<const uint16_t*>(b), start, c, call);
    else products(pool, a, static_cast<const T*>(b), start, c, call);
  };
  if (call.a_narrow) with(static_cast<const uint16_t*>(a));
  else with(static_cast<const T*>(a));
}
