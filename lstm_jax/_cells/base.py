"""`Cell`, the base class of cells with their own parameters."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._checks import (
    check_batch_shape,
    check_flag_fields,
    check_key,
    check_named,
    check_positive_int,
    fail,
    shown,
)
from .._numerics import at_least_float32, common_dtype, multipliable, row, varying_as
from .._typing import Array, Carry, DType, Initializer, Key, Params, Pre
from .contract import Recurrent, options

_DTYPES = ("dtype", "param_dtype", "carry_dtype", "accumulation_dtype")
_COMPUTING = ("float16", "bfloat16", "float32", "float64")


class State(NamedTuple):
    """The carry of a cell with one vector of state.

    Attributes:
        h: [*batch, H], the hidden state, which is also the output.
    """

    h: Array


jax.export.register_namedtuple_serialization(State, serialized_name="lstm_jax.State")


@dataclasses.dataclass(frozen=True)
class Cell(Recurrent):
    """Base class of cells: a cell defines elementwise equations, the engine computes the matmuls.

        wx_t    = x_t @ w_ih + b                    project   all t at once: one matmul
        u_t     = h_{t-1} @ w_hh                    recur     the recurrent matmul
        carry_t = update(carry_{t-1}, wx_t, u_t)    update    elementwise
        y_t     = output(carry_t)                   output

    A subclass defines `update`; then `step` is derived and every implementation can run the cell.
    If its equations do not factor like this it defines only `step`, and the plain scan runs it. A
    cell is a `dataclasses.dataclass(frozen=True)` whose fields are hyper-parameters, not arrays: it
    is hashable, and two cells are equal if all their attributes are.

    Attributes:
        hidden_size: H, the number of hidden units.
        w_ih_init, w_hh_init: initializers of one gate's block, [D, H] and [H, H].
        b_init: initializer of one gate's bias [H], or one for all gates together
            (`initializers.forget_bias`, `initializers.chrono`).
        bias: False leaves b out.
        double_bias: True adds a second bias "b_hh" [G*H], as PyTorch and cuDNN do. Only the sum
            enters the equations; but SGD updates both, so the sum moves twice as fast.
        heads: N; the state is split into N blocks of H/N, each with its own recurrent matrix: w_hh
            is [N, H/N, G*H/N], the gates in order within each block.
        dtype: the dtype of the inputs of the matmuls and of ys; None: what xs and params promote
            to.
        param_dtype: the dtype of the arrays that `init` draws; None: float32.
        carry_dtype: the dtype of carry[0], h; None: `dtype` or that of params, at least float32.
            The other leaves (an LSTM's c) have at least float32.
        accumulation_dtype: the dtype inside the matmuls and `update`; None: `dtype`, at least
            float32.

    Class attributes that a subclass may set:
        gate_names: the names of the G gates, in stored order.
        state: the NamedTuple of the carry; the first leaf is [*batch, recurrent_size], the others
            [*batch, H].
        recurrent: names of the parameters that `recur` uses; it is linear in them and in the carry.
        elementwise: names of further parameters, passed to `update` as keywords.
        input_ndim: number of feature axes of one input x_t.
        candidate: name of the gate with the new content of the state (g of an LSTM), if
            `memory_dropout` may mask it: `update` then takes the mask as `noise`.
        init_only: names of the fields that only `init` reads: the initializers. Cells that differ
            only in these share the compiled programs of `unroll` and `step`.
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    w_ih_init: Initializer = initializers.glorot_uniform()
    w_hh_init: Initializer = initializers.orthogonal()
    b_init: Any = initializers.zeros()
    bias: bool = True
    double_bias: bool = False
    heads: int = 1
    dtype: DType | None = None
    param_dtype: DType | None = None
    carry_dtype: DType | None = None
    accumulation_dtype: DType | None = None

    gate_names = ("h",)
    state = State
    recurrent = ("w_hh",)
    elementwise = ()
    input_ndim = 1
    candidate = None
    init_only = ("w_ih_init", "w_hh_init", "b_init")

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # Otherwise `dataclass` would write a repr of every field.
            cls.__repr__ = Cell.__repr__

    def __repr__(self) -> str:
        """The fields that are not default: LSTM(hidden_size=128, peepholes=True)."""
        chosen = ", ".join(f"{name}={value}" for name, value in options(self).items())
        return f"{type(self).__name__}({chosen})"

    def __post_init__(self):
        check_positive_int("hidden_size", self.hidden_size)
        self._check_options()
        for name in _DTYPES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _dtype_name(name, getattr(self, name)))
        if self.dtype is None and self.param_dtype is not None:
            _check_computes("param_dtype", self.param_dtype, 'pass dtype="float32" beside it')

    def _check_options(self):
        check_flag_fields(self)
        check_positive_int("heads", self.heads)
        for name in ("w_ih_init", "w_hh_init"):
            _check_initializer(name, getattr(self, name), initializers.GateMatrix)
        _check_initializer("b_init", self.b_init, initializers.GateBias)
        if self.hidden_size % self.heads:
            wanted = f"a divisor of hidden_size = {self.hidden_size}"
            raise fail("heads", self.heads, wanted, "make H a multiple of heads")
        if self.heads > 1 and type(self).recur is not Cell.recur:
            remedy = f"{type(self).__name__} has a recurrence of its own"
            raise fail("heads", self.heads, "1", remedy)
        if self.double_bias and not self.bias:
            raise fail("double_bias", True, "False where bias=False", "pass bias=True")

    @property
    def recurrent_size(self) -> int:
        """The size of carry[0], which w_hh multiplies: H, unless the cell has a projection."""
        return self.hidden_size

    def init(self, key: Key, input_size: int) -> Params:
        """Draw parameters {"w_ih" [D, G*H], "w_hh" [H, G*H], "b" [G*H]} of `param_dtype`.

        With D = 0 the network has no input: xs [T, *batch, 0] gives only the number of steps.
        """
        check_key("key", key)
        check_positive_int("input_size", input_size, least=0)
        key_ih, key_hh, key_b = jax.random.split(key, 3)
        dtype = np.dtype(self.param_dtype or "float32")
        gates, size = len(self.gate_names), self.hidden_size
        sizes = initializers.Sizes(input_size, size)
        params = {
            "w_ih": initializers.blocks(
                self.w_ih_init, key_ih, input_size, gates, size, dtype, sizes=sizes
            ),
            "w_hh": self._init_w_hh(key_hh, sizes, dtype),
        }
        if self.double_bias:
            pair = initializers.two_biases(self.b_init, key_b, self.gate_names, size, dtype)
            params["b"], params["b_hh"] = pair
        elif self.bias:
            params["b"] = initializers.bias(self.b_init, key_b, self.gate_names, size, dtype)
        return params

    def _init_w_hh(self, key: Key, sizes: initializers.Sizes, dtype: DType) -> Array:
        def drawn(key: Key) -> Array:
            rows, size = self.recurrent_size // self.heads, self.hidden_size // self.heads
            gates = len(self.gate_names)
            return initializers.blocks(self.w_hh_init, key, rows, gates, size, dtype, sizes=sizes)

        if self.heads == 1:
            return drawn(key)
        return jnp.stack([drawn(k) for k in jax.random.split(key, self.heads)])

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry before the first step: zeros, each leaf [*batch_shape, H]."""
        check_start(params, batch_shape)
        dtypes = self.types_of_carry(params)
        sizes = self.state(self.recurrent_size, *[self.hidden_size] * (len(dtypes) - 1))
        zeros = jax.tree.map(lambda n, dtype: jnp.zeros((*batch_shape, n), dtype), sizes, dtypes)
        return varying_as(zeros, params)

    def project(self, params: Params, x: Array) -> Pre:
        """Project inputs: wx = x @ w_ih + b. [*batch, D] -> [*batch, G*H]"""
        w = params["w_ih"]
        return self.matmul(x, w, self.biases(params), result=w.dtype)

    def biased(self, params: Params, wx: Array) -> Array:
        """Add the biases to wx, in the compute dtype."""
        for bias in self.biases(params):
            wx = wx + row(bias, wx)
        return wx.astype(params["w_ih"].dtype)

    def biases(self, params: Params) -> list[Array]:
        """The biases [G*H] that `project` adds."""
        return [params[name] for name in ("b", "b_hh") if name in params]

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u = h @ w_hh, linear in h and in the `recurrent` parameters. -> [*batch, G*H]"""
        return self.times(carry[0], params["w_hh"])

    def times(self, h: Array, w_hh: Array) -> Array:
        """Multiply h [*batch, H] by w_hh, one block [H/N, G*H/N] for each head. -> [*batch, G*H]"""
        if self.heads == 1:
            return self.matmul(h, w_hh)
        heads, rows, columns = w_hh.shape
        size = self.hidden_size // heads
        h = h.reshape(*h.shape[:-1], heads, rows).astype(w_hh.dtype)
        dtype = self.accumulation(w_hh.dtype)
        h, w_hh = multipliable(h, dtype), multipliable(w_hh, dtype)
        u = jnp.einsum("...nh,nhk->...nk", h, w_hh, preferred_element_type=dtype)
        u = u.reshape(*u.shape[:-1], columns // size, size)  # [*batch, N, G, H/N]
        return jnp.swapaxes(u, -2, -3).reshape(*h.shape[:-2], heads * columns)

    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """The dtype of the matmuls' inputs: `dtype`, or what the parameters and x promote to."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        leaves = jax.tree.leaves(params) + ([] if x is None else [x])
        if not leaves:
            raise fail("params", shown(params), "parameters", "pass what cell.init gives")
        try:
            return common_dtype(*leaves)
        except ValueError:  # Dtypes of 8 bits and less do not promote.
            seen = "dtypes " + ", ".join(sorted({str(jnp.result_type(x)) for x in leaves}))
            remedy = 'set the compute dtype, as in LSTM(128, dtype="float32")'
            raise fail("params, xs", seen, "dtypes that promote to one", remedy) from None

    def carry_dtypes(self, compute: DType) -> Carry:
        """The dtype of each leaf of the carry, in the carry's own structure."""
        first: Any = np.dtype(self.carry_dtype or at_least_float32(compute))
        rest: list[Any] = [at_least_float32(first)] * (len(self.state._fields) - 1)
        return self.state(first, *rest)

    def accumulation(self, dtype: DType) -> np.dtype:
        """The dtype inside the matmuls and `update`, for inputs of `dtype`."""
        return np.dtype(self.accumulation_dtype or at_least_float32(dtype))


def check_start(params: Any, batch_shape: Any) -> None:
    """Raise unless (params, batch_shape) are valid arguments of `initial_carry`."""
    check_named("params", params, "pass what init gives: initial_carry(params, batch_shape)")
    check_batch_shape(batch_shape)


def _check_initializer(name: str, value: Any, kind: type) -> None:
    """Raise unless `value` is a plain initializer or a `kind`, which draws all gates together."""
    if isinstance(value, kind) or (callable(value) and not isinstance(value, type)):
        return
    remedy = f"call it: {value.__name__}()" if isinstance(value, type) else "see initializers"
    wanted = "an initializer for a matrix, such as initializers.orthogonal()"
    if name.startswith("b_"):
        wanted = "an initializer for a bias, such as initializers.zeros()"
    raise fail(name, shown(value), wanted, remedy)


def _dtype_name(name: str, dtype: DType) -> str:
    """The name of a floating-point dtype; a string, since `np.dtype("float64") == None`."""
    try:
        canonical = np.dtype(dtype)
    except TypeError:
        canonical = None
    if canonical is None or not jnp.issubdtype(canonical, jnp.floating):
        raise fail(
            name, shown(dtype), "a floating-point dtype", 'pass for example "float32" or None'
        )
    stored = name == "param_dtype" and jnp.finfo(canonical).bits == 8
    if not stored:
        _check_computes(name, canonical.name, 'pass for example "float32" or None')
    return canonical.name


def _check_computes(name: str, dtype: str, remedy: str) -> None:
    """Raise unless JAX computes in `dtype`."""
    if dtype not in _COMPUTING:
        raise fail(name, dtype, f"one of {', '.join(_COMPUTING)}", remedy)
