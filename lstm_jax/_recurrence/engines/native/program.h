// A cell's update, or a derivative of it, as a list of instructions on blocks of rows.
//
// Included once for each instruction set, after vector.h. Each instruction walks over a whole block,
// so that choosing it costs little beside doing it; a block is small enough to stay in the cache.

template <class T>
struct Machine {
  const Instruction* code;
  int count;
  T* const* bases;  // where each array's block begins

  T* at(const Operand& o, int row) const { return bases[o.base] + o.offset + int64_t(row) * o.row; }

  // out = f(a, b, c), whichever of these there are.
  template <int arity, class F>
  void map(const Instruction& it, int rows, F f) const {
    const Operand* in[3] = {&it.a, &it.b, &it.c};
    bool flat = it.out.elem && it.out.row == it.n, all_vectors = it.out.elem;
    for (int k = 0; k < arity; k++) {
      flat = flat && ((in[k]->elem && in[k]->row == it.n) || (!in[k]->elem && !in[k]->row));
      all_vectors = all_vectors && in[k]->elem;
    }
    int n = flat ? it.n * rows : it.n;
    T* out = at(it.out, 0);
    const T* p[3] = {};
    for (int k = 0; k < arity; k++) p[k] = at(*in[k], 0);
    for (int r = flat ? 1 : rows; r > 0; r--) {
      if (all_vectors) map_vectors<arity>(p, out, n, f);
      else map_any<arity>(it, p, out, n, f);
      out += it.out.row;
      for (int k = 0; k < arity; k++) p[k] += in[k]->row;
    }
  }

  // A row whose operands all have n elements, as most do.
  template <int arity, class F>
  static void map_vectors(const T* const* p, T* out, int n, F f) {
    const T *a = p[0], *b = arity > 1 ? p[1] : a, *c = arity > 2 ? p[2] : a;
    int j = 0;
    for (; j + N<T> <= n; j += N<T>)
      store<T>(out + j, f(load<T>(a + j), load<T>(b + j), load<T>(c + j)));
    if (int rest = n - j)
      store<T>(out + j, f(load<T>(a + j, rest), load<T>(b + j, rest), load<T>(c + j, rest)), rest);
  }

  // A row of which some operands, or the result, are one number.
  template <int arity, class F>
  static void map_any(const Instruction& it, const T* const* p, T* out, int n, F f) {
    const Operand* in[3] = {&it.a, &it.b, &it.c};
    V<T> same[3] = {};
    for (int k = 0; k < arity; k++)
      if (!in[k]->elem) same[k] = splat<T>(*p[k]);
    auto operand = [&](int k, int j, int lanes) INLINE_LAMBDA {
      if (k >= arity) return V<T>{};
      if (!in[k]->elem) return same[k];
      return lanes == N<T> ? load<T>(p[k] + j) : load<T>(p[k] + j, lanes);
    };
    int j = 0;
    for (; j + N<T> <= n && it.out.elem; j += N<T>)
      store<T>(out + j, f(operand(0, j, N<T>), operand(1, j, N<T>), operand(2, j, N<T>)));
    if (int rest = it.out.elem ? n - j : 1)
      store<T>(out + j, f(operand(0, j, rest), operand(1, j, rest), operand(2, j, rest)), rest);
  }

  // out[r] = the sum, or the largest, of a[r].
  template <class F>
  void reduce_row(const Instruction& it, int rows, T first, F f) const {
    for (int r = 0; r < rows; r++) {
      const T* a = at(it.a, r);
      T sum = first;
      if (it.a.elem) {
        V<T> sums = splat<T>(first);
        int j = 0;
        for (; j + N<T> <= it.n; j += N<T>) sums = f(sums, load<T>(a + j));
        for (int lane = 0; lane < N<T>; lane++) sum = f(splat<T>(sum), splat<T>(sums[lane]))[0];
        for (; j < it.n; j++) sum = f(splat<T>(sum), splat<T>(a[j]))[0];
      } else {
        for (int j = 0; j < it.n; j++) sum = f(splat<T>(sum), splat<T>(*a))[0];
      }
      *at(it.out, r) = sum;
    }
  }

  // out += the sum of a over the rows.
  void accumulate(const Instruction& it, int rows) const {
    T* out = bases[it.out.base] + it.out.offset;
    for (int r = 0; r < rows; r++) {
      const T* a = at(it.a, r);
      int j = 0;
      for (; it.a.elem && j + N<T> <= it.n; j += N<T>)
        store<T>(out + j, load<T>(out + j) + load<T>(a + j));
      for (; j < it.n; j++) out[j] += it.a.elem ? a[j] : *a;
    }
  }

  template <class F>
  void each(const Instruction& it, int rows, F f) const {  // one number at a time
    map<2>(it, rows, [f](V<T> a, V<T> b, V<T>) INLINE_LAMBDA {
      V<T> y = a;
      for (int lane = 0; lane < N<T>; lane++) y[lane] = f(a[lane], b[lane]);
      return y;
    });
  }

  void run(int block_rows) const {
    const I<T> unset = {};
    const V<T> one = splat<T>(1), zero = splat<T>(0);
    for (const Instruction* it = code; it < code + count; it++) {
      int rows = it->each_row ? block_rows : 1;
      switch (Op(it->op)) {
#define MAP1(name, y) \
  case Op::name: map<1>(*it, rows, [=](V<T> a, V<T>, V<T>) INLINE_LAMBDA -> V<T> { return y; }); break;
#define MAP2(name, y) \
  case Op::name: map<2>(*it, rows, [=](V<T> a, V<T> b, V<T>) INLINE_LAMBDA -> V<T> { return y; }); break;
#define TRUTH(name, y) MAP2(name, choose<T>(y, one, zero))
#define EACH1(name, y) \
  case Op::name: each(*it, rows, [](T a, T) { return T(y); }); break;
#define EACH2(name, y) \
  case Op::name: each(*it, rows, [](T a, T b) { return T(y); }); break;
        MAP1(copy, a)
        MAP2(add, a + b)
        MAP2(sub, a - b)
        MAP2(mul, a * b)
        MAP2(div, a / b)
        MAP2(max, (choose<T>((a > b) | (a != a), a, b)))
        MAP2(min, (choose<T>((a < b) | (a != a), a, b)))
        MAP1(neg, -a)
        MAP1(abs, absolute<T>(a))
        MAP1(sign, (choose<T>((a == zero) | (a != a), a, with_sign<T>(one, a))))
        MAP1(tanh, tangent<T>(a))
        MAP1(logistic, logistic<T>(a))
        MAP2(dtanh, a * ((one - b) * (one + b)))
        MAP2(dlogistic, a * (b * (one - b)))
        MAP1(exp, exponential<T>(a))
        TRUTH(lt, a < b)
        TRUTH(le, a <= b)
        TRUTH(gt, a > b)
        TRUTH(ge, a >= b)
        TRUTH(eq, a == b)
        TRUTH(ne, a != b)
        MAP2(and_, a * b)
        MAP2(or_, (choose<T>(a != zero, one, b)))
        MAP1(not_, one - a)
        case Op::select:  // a: the mask, b where it is false, c where it is true
          map<3>(*it, rows, [=](V<T> a, V<T> b, V<T> c) INLINE_LAMBDA -> V<T> {
            return choose<T>(a != zero, c, b);
          });
          break;
        EACH1(sqrt, std::sqrt(a))
        EACH1(rsqrt, 1 / std::sqrt(a))
        EACH1(log, std::log(a))
        EACH1(log1p, std::log1p(a))
        EACH1(expm1, std::expm1(a))
        EACH1(sin, std::sin(a))
        EACH1(cos, std::cos(a))
        EACH1(tan, std::tan(a))
        EACH1(atan, std::atan(a))
        EACH1(erf, std::erf(a))
        EACH1(floor, std::floor(a))
        EACH1(ceil, std::ceil(a))
        EACH1(round, std::nearbyint(a))
        EACH1(is_finite, std::isfinite(a))
        MAP1(single, single(a))
        EACH1(half, rounded_to_half(a))
        MAP1(bfloat16, rounded(a))
        EACH2(pow, std::pow(a, b))
        case Op::sum:
          reduce_row(*it, rows, T(0), [](V<T> a, V<T> b) INLINE_LAMBDA -> V<T> { return a + b; });
          break;
        case Op::largest:
          reduce_row(*it, rows, -std::numeric_limits<T>::infinity(),
                     [](V<T> a, V<T> b) INLINE_LAMBDA -> V<T> {
                       return choose<T>((a > b) | (a != a), a, b);
                     });
          break;
        case Op::accumulate: accumulate(*it, block_rows); break;
      }
    }
  }
};
