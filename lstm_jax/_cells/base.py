"""The contract of a cell.

A cell is its elementwise equations; the engine owns the matmuls:

    wx_t    = x_t @ w_ih + b                    project   all t at once: one matmul
    u_t     = h_{t-1} @ w_hh                    recur     the recurrent matmul
    carry_t = update(carry_{t-1}, wx_t, u_t)    update    elementwise: the cell
    y_t     = output(carry_t)                   output

A subclass writes `update` (and then `step` is derived, and every implementation applies) or, where
its equations do not factor so, only `step` (and then the plain scan runs it). It holds
hyper-parameters and no arrays: it is hashable, and two cells with equal fields are equal.

The four choices of dtype (each None picks the default named here):

    param_dtype         of `init`'s arrays                      float32
    dtype               of the inputs of the matmuls and of ys  what xs and params promote to
    carry_dtype         of carry[0], h                          dtype, at least float32
    accumulation_dtype  inside the matmuls and `update`         dtype, at least float32

The other leaves of the carry (an LSTM's c) are of carry_dtype, but at least float32.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._checks import as_array, check_floating, check_positive_int, check_shape, fail
from .._numerics import at_least_float32, cast, common_dtype, row
from .._typing import Array, Carry, DType, Initializer, Key, Params, Pre

_DTYPES = ("dtype", "param_dtype", "carry_dtype", "accumulation_dtype")


class State(NamedTuple):
    """The carry of a cell with one vector of state.

    h: [*batch, H], the hidden state, which is also the output.
    """

    h: Array


jax.export.register_namedtuple_serialization(State, serialized_name="lstm_jax.State")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Base of every cell. See the module's docstring for the equations and the dtypes.

    Attributes:
        hidden_size: H.
        w_ih_init, w_hh_init: initializers of one gate's block, [D, H] and [H, H].
        b_init: initializer of one gate's bias [H], or one for all gates together
            (`initializers.forget_bias`, `initializers.chrono`).

    Class attributes that a subclass may set:
        gate_names: one name a gate, in stored order; G is their number.
        state: the NamedTuple of the carry; every leaf is [*batch, H].
        recurrent: names of the parameters that `recur` uses; it is linear in them and in the carry.
        elementwise: names of further parameters, which `update` takes as keywords.
        additive: True if `update` depends on wx and u through wx + u alone. The engine then keeps
            one array where it would keep two. It speaks of the `update` (or its `gates`) beside
            it: a subclass that writes another starts from False again.
        input_ndim: number of feature axes of one input x_t.
    """

    hidden_size: int
    _: dataclasses.KW_ONLY
    w_ih_init: Initializer = initializers.glorot_uniform()
    w_hh_init: Initializer = initializers.orthogonal()
    b_init: Any = initializers.zeros()
    dtype: DType | None = None
    param_dtype: DType | None = None
    carry_dtype: DType | None = None
    accumulation_dtype: DType | None = None

    gate_names = ("h",)
    state = State
    recurrent = ("w_hh",)
    elementwise = ()
    additive = False
    input_ndim = 1

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if {"update", "gates"} & vars(cls).keys() and "additive" not in vars(cls):
            cls.additive = False

    def __post_init__(self):
        check_positive_int("hidden_size", self.hidden_size)
        for name in _DTYPES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _dtype_name(name, getattr(self, name)))

    # ---- what a subclass writes -----------------------------------------------------------------
    def update(self, carry: Carry, wx: Pre, u: Array, **extras: Array) -> Carry:
        """carry_t from carry_{t-1}, wx_t and u_t, all of one dtype: elementwise over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    # ---- what a subclass may write --------------------------------------------------------------
    def init(self, key: Key, input_size: int) -> Params:
        """Parameters {"w_ih" [D, G*H], "w_hh" [H, G*H], "b" [G*H]} of `param_dtype`."""
        check_positive_int("input_size", input_size)
        key_ih, key_hh, key_b = jax.random.split(key, 3)
        dtype = np.dtype(self.param_dtype or "float32")
        gates, size = len(self.gate_names), self.hidden_size
        return {
            "w_ih": initializers.blocks(self.w_ih_init, key_ih, input_size, gates, size, dtype),
            "w_hh": initializers.blocks(self.w_hh_init, key_hh, size, gates, size, dtype),
            "b": initializers.bias(self.b_init, key_b, self.gate_names, size, dtype),
        }

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry before the first step: zeros, each leaf [*batch_shape, H]."""
        dtypes = self.carry_dtypes(self.compute_dtype(params))
        shape = (*batch_shape, self.hidden_size)
        return jax.tree.map(lambda dtype: jnp.zeros(shape, dtype), dtypes)

    def project(self, params: Params, x: Array) -> Pre:
        """wx = x @ w_ih + b. x: [*batch, D] -> [*batch, G*H], for any number of leading axes."""
        wx = self.matmul(x, params["w_ih"])
        return (wx + row(params["b"], wx)).astype(params["w_ih"].dtype)

    def recur(self, params: Params, carry: Carry) -> Array:
        """u = h @ w_hh. Linear in the `recurrent` parameters and in the carry. -> [*batch, G*H]"""
        return self.matmul(carry[0], params["w_hh"])

    def output(self, params: Params, carry: Carry) -> Array:
        """y = h, of a carry whose leaves have one dtype. -> [*batch, H]"""
        del params
        return carry[0]

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """One time step: the streaming form, the same numbers as `unroll`.

        Args:
            params: as from `init`.
            carry: as from `initial_carry`, or the carry that the last step returned.
            x: [*batch, D].

        Returns:
            (carry, y): y is [*batch, H] in the compute dtype.

        Raises:
            ValueError: a wrong shape or dtype; the message says which and what would do.
        """
        x = check_step(self, params, carry, x)
        params, x, carry = self.prepare(params, x, carry)
        carry = self.following(params, carry, self.project(params, x))
        return carry, self.emit(params, carry, x.dtype)

    def following(self, params: Params, carry: Carry, wx: Pre) -> Carry:
        """carry_t from carry_{t-1} and wx_t: `update` around `recur`."""
        return self.advance(carry, wx, self.recur(params, carry), self.extras(params))

    # ---- what the engine derives ----------------------------------------------------------------
    @property
    def factors(self) -> bool:
        """Whether the cell is an `update` around the engine's matmuls."""
        return type(self).update is not Cell.update and type(self).step is Cell.step

    def extras(self, params: Params) -> Params:
        """The parameters that `update` takes as keywords."""
        return {name: params[name] for name in self.elementwise}

    def weights(self, params: Params) -> Params:
        """The parameters that `recur` takes."""
        return {name: params[name] for name in self.recurrent}

    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """`dtype`, or what the parameters and x promote to."""
        leaves = jax.tree.leaves(params) + ([] if x is None else [x])
        return np.dtype(self.dtype or common_dtype(*leaves))

    def carry_dtypes(self, compute: DType) -> Carry:
        """The dtype of each leaf of the carry, in the carry's own structure."""
        first: Any = np.dtype(self.carry_dtype or at_least_float32(compute))
        rest: list[Any] = [at_least_float32(first)] * (len(self.state._fields) - 1)
        return self.state(first, *rest)

    def prepare(self, params: Params, x: Array, carry: Carry) -> tuple[Params, Array, Carry]:
        """Parameters and x in the compute dtype, the carry in its own. Costs nothing when it is."""
        compute = self.compute_dtype(params, x)
        carry = jax.tree.map(
            lambda leaf, dtype: jnp.asarray(leaf, dtype), carry, self.carry_dtypes(compute)
        )
        return cast(params, compute), x.astype(compute), carry

    def accumulation(self, dtype: DType) -> np.dtype:
        """The dtype inside the matmuls and `update`, for inputs of `dtype`."""
        return np.dtype(self.accumulation_dtype or at_least_float32(dtype))

    def matmul(self, x: Array, w: Array) -> Array:
        """x @ w: inputs of w's dtype, the sum and the result in the accumulation dtype."""
        return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=self.accumulation(w.dtype))

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params) -> Carry:
        """`update` with all arguments in the accumulation dtype; the carry returns in its own."""
        carry_in, wx, extras = cast((carry, wx, extras), u.dtype)
        new = self.update(carry_in, wx, u, **extras)
        return jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, carry)

    def emit(self, params: Params, carry: Carry, dtype: DType) -> Array:
        """`output` of the carry in the accumulation dtype, as the compute dtype `dtype`."""
        return self.output(params, cast(carry, self.accumulation(dtype))).astype(dtype)


def _dtype_name(name: str, dtype: DType) -> str:
    """The one spelling of a floating-point dtype. No NumPy dtype: that of float64 equals None."""
    try:
        canonical = np.dtype(dtype)
    except TypeError:
        canonical = None
    if canonical is None or not jnp.issubdtype(canonical, jnp.floating):
        raise fail(name, repr(dtype), "a floating-point dtype", 'pass such as "float32" or None')
    return canonical.name


@functools.lru_cache(maxsize=1024)
def _param_shapes(cell: Cell, input_size: int) -> Any:
    return jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def check_params(cell: Cell, params: Params, input_size: int) -> None:
    """Raise unless `params` is what `cell.init` gives for inputs of `input_size`, by shape."""
    seen, wanted = _by_path(params), _by_path(_param_shapes(cell, input_size))
    if seen.keys() != wanted.keys():
        names = "leaves " + " ".join(sorted(seen)) if seen else repr(params)
        raise fail("params", names, " ".join(sorted(wanted)), "pass what cell.init gives")
    remedy = f"the inputs have D = {input_size}, the cell H = {cell.hidden_size}: make them agree"
    for path, want in wanted.items():
        check_shape(f"params{path}", seen[path], want.shape, "its shape", remedy)


def check_carry(carry: Carry, wanted: Carry) -> None:
    """Raise unless `carry` has the structure and the shapes of `wanted`."""
    name = type(wanted).__name__
    if jax.tree.structure(carry) != jax.tree.structure(wanted):
        fields = ", ".join(f"{field}=..." for field in getattr(wanted, "_fields", ()))
        raise fail("carry", repr(jax.tree.structure(carry)), name, f"pass {name}({fields})")
    for (path, leaf), want in zip(
        jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(wanted), strict=True
    ):
        argument = f"carry{jax.tree_util.keystr(path)}"
        check_shape(argument, leaf, want.shape, "[*batch, H]", "match xs and the cell")


def check_inputs(argument: str, x: Any, letters: str, ndim: int) -> Array:
    """`x` as an array; raise unless it is floating-point and has `ndim` axes or more."""
    x = as_array(argument, x)
    check_floating(argument, x)
    if x.ndim < ndim:
        raise fail(argument, f"shape {x.shape}", letters, "add the missing axes")
    return x


def check_step(cell: Cell, params: Params, carry: Carry, x: Any) -> Array:
    """`x` as an array; raise unless x, params and carry fit one step of `cell`."""
    x = check_inputs("x", x, "[*batch, D]", cell.input_ndim)
    check_params(cell, params, x.shape[-1])
    batch = x.shape[: x.ndim - cell.input_ndim]
    check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    return x
