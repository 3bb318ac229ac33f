"""What the engine asks of a cell, and what it derives from the answers.

A cell is its elementwise equations; the engine owns the matmuls:

    wx_t    = x_t @ w_ih + b                    project   all t at once: one matmul
    u_t     = h_{t-1} @ w_hh                    recur     the recurrent matmul
    carry_t = update(carry_{t-1}, wx_t, u_t)    update    elementwise: the cell
    y_t     = output(carry_t)                   output

`Cell` is the base of cells with parameters of their own, `Wrapper` of those around another cell.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._checks import as_array, check_floating, check_integers, check_shape, fail
from .._numerics import cast
from .._products import matmul
from .._static import Static, Unread, compiled_for, drawable
from .._typing import Array, Carry, DType, Key, Params, Pre


class Recurrent(Static, abc.ABC):
    """The contract: see the module's docstring, and `Cell` for what its fields mean.

    Attributes:
        hidden_size: H.
        gate_names: one name a gate, in stored order; G is their number.
        state: the NamedTuple of the carry.
        recurrent: names of the parameters that `recur` uses.
        elementwise: names of further parameters, which `update` takes as keywords.
        additive: True if `update` depends on wx and u through wx + u alone. The engine then keeps
            one array where it would keep two.
        input_ndim: number of feature axes of one input x_t.
        candidate: name of the gate that is written to the memory, which `memory_dropout` masks by
            the `noise` of `update`; None: there is no such one.
    """

    hidden_size: int
    gate_names: Any
    state: Any
    recurrent: Any
    elementwise: Any
    additive: Any
    input_ndim: Any
    candidate: Any

    # ---- what a subclass writes -----------------------------------------------------------------
    def update(self, carry: Carry, wx: Pre, u: Array, **extras: Any) -> Carry:
        """carry_t from carry_{t-1}, wx_t and u_t, all of one dtype: elementwise over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    @abc.abstractmethod
    def init(self, key: Key, input_size: int) -> Params:
        """Parameters of `param_dtype`."""

    @abc.abstractmethod
    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry before the first step, leaves [*batch_shape, ...]."""

    @abc.abstractmethod
    def project(self, params: Params, x: Array) -> Pre:
        """wx of x [*batch, D], for any number of leading axes."""

    @abc.abstractmethod
    def recur(self, params: Params, carry: Carry) -> Array:
        """u of the carry. -> [*batch, G*H]"""

    @abc.abstractmethod
    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """The dtype of the matmuls' inputs and of ys."""

    @abc.abstractmethod
    def carry_dtypes(self, compute: DType) -> Carry:
        """The dtype of each leaf of the carry, in the carry's own structure."""

    @abc.abstractmethod
    def accumulation(self, dtype: DType) -> np.dtype:
        """The dtype inside the matmuls and `update`, for inputs of `dtype`."""

    # ---- what a subclass may write --------------------------------------------------------------
    def output(self, params: Params, carry: Carry) -> Array:
        """y = h, of a carry whose leaves have one dtype. -> [*batch, H]"""
        del params
        return carry[0]

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """What a key changes: (params, xs, noise), drawn once for a whole sequence.

        Args:
            key: `unroll`'s.
            params: as from `init`; what is returned may hold masks besides, for `recur` to use.
            xs: [T, *batch, D], zero at steps that are not valid.

        Returns:
            (params, xs, noise): noise is None or a pytree of floating-point arrays
            [T, *batch, ...]; `update` gets that of its step as the keyword `noise`, and without a
            key none. No gradient flows through it.
        """
        del key
        return params, xs, None

    def step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """One time step: the streaming form, the same numbers as `unroll` in evaluation.

        Args:
            params: as from `init`.
            carry: as from `initial_carry`, or the carry that the last step returned.
            x: [*batch, D].

        Returns:
            (carry, y): y is [*batch, H] in the compute dtype.

        Raises:
            ValueError: a wrong shape or dtype; the message says which and what would do.
        """
        return compiled_step(self, params, carry, x)

    def following(self, params: Params, carry: Carry, wx: Pre, noise: Any = None) -> Carry:
        """carry_t from carry_{t-1} and wx_t: `update` around `recur`."""
        return self.advance(carry, wx, self.recur(params, carry), self.extras(params), noise)

    # ---- what the engine derives ----------------------------------------------------------------
    @property
    def factors(self) -> bool:
        """Whether the cell is an `update` around the engine's matmuls."""
        return type(self).update is not Recurrent.update and not self._own_step

    @property
    def _own_step(self) -> bool:
        return type(self).step is not Recurrent.step

    def unchecked_step(
        self, params: Params, carry: Carry, x: Array, noise: Any = None
    ) -> tuple[Carry, Array]:
        """`step` of arguments that `unroll` has checked, with the noise of training."""
        if self._own_step:
            return self.step(params, carry, x)
        return self._derived_step(params, carry, x, noise)

    def _derived_step(
        self, params: Params, carry: Carry, x: Array, noise: Any = None
    ) -> tuple[Carry, Array]:
        params, x, carry = self.prepare(params, x, carry)
        carry = self.following(params, carry, self.project(params, x), noise)
        return carry, self.emit(params, carry, x.dtype)

    def extras(self, params: Params) -> Params:
        """The parameters that `update` takes as keywords."""
        return {name: params[name] for name in self.elementwise}

    def weights(self, params: Params) -> Params:
        """The parameters that `recur` takes."""
        return {name: params[name] for name in self.recurrent}

    def types_of_carry(self, params: Params) -> Carry:
        """The dtype of each leaf of the carry, which the inputs' has no part in.

        So it is known before there is an input, and every step returns the carry as it got it.
        """
        return self.carry_dtypes(self.compute_dtype(params))

    def prepare(self, params: Params, x: Array, carry: Carry) -> tuple[Params, Array, Carry]:
        """Parameters and x in the compute dtype, the carry in its own. Costs nothing when it is."""
        compute = self.compute_dtype(params, x)
        carry = jax.tree.map(
            lambda leaf, dtype: jnp.asarray(leaf, dtype), carry, self.types_of_carry(params)
        )
        return cast(params, compute), x.astype(compute), carry

    def matmul(
        self, x: Array, w: Array, biases: Sequence[Array] = (), result: DType | None = None
    ) -> Array:
        """x @ w + b: inputs of w's dtype, the sum in the accumulation dtype.

        The result is in `result`, or by default as the sum.
        """
        return matmul(x.astype(w.dtype), w, self.accumulation(w.dtype), biases, result)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any = None) -> Carry:
        """`update` with all arguments in the accumulation dtype; the carry returns in its own."""
        given: Any = extras if noise is None else {**extras, "noise": noise}
        carry_in, wx, given = cast((carry, wx, given), u.dtype)
        new = self.update(carry_in, wx, u, **given)
        return jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, carry)

    def emit(self, params: Params, carry: Carry, dtype: DType) -> Array:
        """`output` of the carry in the accumulation dtype, as the compute dtype `dtype`."""
        return self.output(params, cast(carry, self.accumulation(dtype))).astype(dtype)


def compiled_step(cell: Any, params: Params, carry: Carry, x: Any) -> tuple[Carry, Array]:
    """`step` of a cell or net, its arguments checked."""
    letters = "[*batch, D]" if cell.input_ndim else "[*batch]"
    x = check_inputs("x", x, letters, cell.input_ndim)
    cell = compiled_for(cell)
    check_fit(cell, params, carry, *sizes_of(cell, x.shape))
    return _step(cell, params, carry, x)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _step(cell: Any, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    """Inside another jit it is a part of that program."""
    # Not `unchecked_step` of a cell: a `step` of its own may have come here by `super`.
    run = cell._derived_step if isinstance(cell, Recurrent) else cell.unchecked_step
    return run(params, carry, x)


def sizes_of(cell: Any, shape: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """(D, the axes before the features) of inputs of `shape`; D is 0 where there is none."""
    features = cell.input_ndim
    return (shape[-1], shape[:-features]) if features else (0, shape)


def options(cell: Any) -> dict[str, str]:
    """{name: repr} of the fields of a cell that are not their defaults."""
    fields = [(f.name, getattr(cell, f.name), f.default) for f in dataclasses.fields(cell)]
    fields = [each for each in fields if type(each[1]) is not Unread]
    return {name: repr(value) for name, value, default in fields if value != default}


# ---- errors for callers --------------------------------------------------------------------------
def check_params(cell: Any, params: Params, input_size: int) -> None:
    """Raise unless `params` is what `cell.init` gives for inputs of `input_size`, by shape."""
    seen, wanted = _by_path(params), _by_path(param_shapes(cell, input_size))
    if seen.keys() != wanted.keys():
        names = "leaves " + " ".join(sorted(seen)) if seen else repr(params)
        raise fail("params", names, " ".join(sorted(wanted)), "pass what cell.init gives")
    size = f"the cell H = {cell.hidden_size}" if isinstance(cell, Recurrent) else "the net others"
    remedy = f"the inputs have D = {input_size}, {size}: make them agree"
    for path, want in wanted.items():
        check_shape(f"params{path}", seen[path], want.shape, "its shape", remedy)


@functools.lru_cache(maxsize=1024)
def param_shapes(cell: Any, input_size: int) -> Any:
    """Shapes and dtypes of the parameters of a cell or net as `compiled_for` gives it."""
    cell = drawable(cell, initializers.zeros())
    return jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


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
    """`x` as an array; raise unless it is floating-point and has `ndim` axes or more.

    Without a feature axis (`letters` has no D) it holds integers instead.
    """
    x = as_array(argument, x)
    check_floating(argument, x) if "D" in letters else check_integers(argument, x)
    if x.ndim < ndim:
        raise fail(argument, f"shape {x.shape}", letters, "add the missing axes")
    return x


def check_fit(cell: Any, params: Params, carry: Carry | None, input_size: Any, batch: Any) -> None:
    """Raise unless params and carry are what a cell or net, `compiled_for`, has for its inputs.

    What fitted once is known by its types: to find the shapes wanted takes longer than a step.
    """
    leaves, tree = jax.tree.flatten((params, carry))
    types = tuple([(np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves])
    known = (cell, tree, types, input_size, batch)
    if known in _FITTING:
        return
    check_params(cell, params, input_size)
    if carry is not None:
        check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    if len(_FITTING) >= 4096:
        _FITTING.clear()
    _FITTING.add(known)


_FITTING: set[Any] = set()
