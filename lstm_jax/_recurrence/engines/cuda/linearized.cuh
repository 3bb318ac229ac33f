// dr_t = restart_t ? dorigin : ds_{t-1};  du_t = dpre_t + dr_t W;  ds_t = valid_t ? J ... : dr_t

constexpr int STATE = POINT;

struct Timed : Point {
  float dpre[SIZE(PRE)];

  INLINE void read(const Arguments& in, const Item& item, int k) {
    int64_t row;
    if (Point::read(in, item, k, row)) load_dpre(in.given + GIVEN_DPRE, row, item.unit, dpre);
  }
  INLINE void fill(const Arguments& in, const Item& item, int64_t step, float* a) const {
    put(a), copy<PRE>(dpre, a + POINT + CARRY);
    item.add_product(a + POINT + CARRY + PRE - M_PLANES);
  }
};

INLINE void load_first(const Arguments& in, const Item& item, int member, float* a) {
  load_extras(in.given + GIVEN_EXTRAS, member, item.unit, a + CARRY + PRE);
  load_dcarry(in.given + GIVEN_DCARRY, item.b, item.unit, a + POINT);
  load_dextras(in.given + GIVEN_DEXTRAS, member, item.unit, a + POINT + CARRY + PRE);
}
INLINE void load_origin(const Arguments& in, const Item& item, float* dcarry) {
  load_dcarry(in.given + GIVEN_DORIGIN, item.b, item.unit, dcarry);
}
