// r_t = restart_t ? origin : s_{t-1};  u_t = r_t W;  s_t = valid_t ? update(r_t, ...) : r_t

constexpr int STATE = 0;

struct Timed : Flagged {
  float wx[SIZE(WX)], noise[SIZE(NOISE)];

  INLINE void read(const Arguments& in, const Item& item, int k) {
    int64_t row;
    if (!begin(in, item, k, row)) return;
    load_wx(in.given + GIVEN_WX, row, item.unit, wx);
    load_noise(in.given + GIVEN_NOISE, row, item.unit, noise);
  }
  // u, or wx + u of an additive cell, from zero or from wx.
  INLINE void fill(const Arguments& in, const Item& item, int64_t step, float* a) const {
    float *const pre = a + CARRY, *const u = ADDITIVE ? pre : pre + WX;
    copy<WX>(wx, pre), copy<NOISE>(noise, a + CARRY + PRE + EXTRAS);
    if (!ADDITIVE) { UNROLL for (int p = 0; p < M_PLANES; p++) u[p] = 0.f; }
    item.add_product(u);
    if (KEPT_U && item.there) store_u(in.made + MADE_U, step + item.first, item.unit, u);
  }
};

INLINE void load_first(const Arguments& in, const Item& item, int member, float* a) {
  load_carry(in.given + GIVEN_CARRY, item.b, item.unit, a);
  load_extras(in.given + GIVEN_EXTRAS, member, item.unit, a + CARRY + PRE);
}
INLINE void load_origin(const Arguments& in, const Item& item, float* carry) {
  load_carry(in.given + GIVEN_ORIGIN, item.b, item.unit, carry);
}
