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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import initializers
from .._checks import (
    as_array,
    check_callable,
    check_floating,
    check_integers,
    check_shape,
    fail,
    is_floating,
    shown,
)
from .._numerics import cast
from .._products import matmul
from .._static import Static, Unread, compiled_for, drawable
from .._typing import Array, Carry, DType, Key, Params, Pre
from .closures import closes_over_traced


class Recurrent(Static, abc.ABC):
    """What `unroll` scans: a cell, bare or in wrappers such as `zoneout`.

    `isinstance(x, Recurrent)` holds for both, `isinstance(x, Net)` for what `stack` and the other
    nets are, and `isinstance(x, Cell)` for a bare cell alone. A cell of one's own is a subclass of
    `Cell`; its docstring has the equations, and what the attributes mean in full.

    Attributes:
        hidden_size: H.
        gate_names: one name a gate, in stored order; G is their number.
        state: the NamedTuple of the carry.
        recurrent: names of the parameters that `recur` uses.
        elementwise: names of further parameters, which `update` takes as keywords.
        input_ndim: number of feature axes of one input x_t.
        candidate: name of the gate that is written to the memory, which `memory_dropout` masks by
            the `noise` of `update`; None: there is no such one.
    """

    hidden_size: int
    gate_names: Any
    state: Any
    recurrent: Any
    elementwise: Any
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
            return _checked_step(self, self.step(params, carry, x), carry)
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
        _check_new("update", new, carry)
        return jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, carry)

    def emit(self, params: Params, carry: Carry, dtype: DType) -> Array:
        """`output` of the carry in the accumulation dtype, as the compute dtype `dtype`."""
        return self.output(params, cast(carry, self.accumulation(dtype))).astype(dtype)


def compiled_step(cell: Any, params: Params, carry: Carry, x: Any) -> tuple[Carry, Array]:
    """`step` of a cell or net, its arguments checked."""
    letters = "[*batch, D]" if cell.input_ndim else "[*batch]"
    x = check_inputs("x", x, letters, cell.input_ndim)
    cell = compiled_for(cell)
    traced = closes_over_traced(cell)  # Then nothing may be kept for it.
    params = check_fit(cell, params, carry, *sizes_of(cell, x.shape), kept=not traced)
    return (_step if traced else _jitted_step)(cell, params, carry, x)


def _step(cell: Any, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    """Inside another jit it is a part of that program."""
    # Not `unchecked_step` of a cell: a `step` of its own may have come here by `super`.
    run = cell._derived_step if isinstance(cell, Recurrent) else cell.unchecked_step
    return run(params, carry, x)


_jitted_step = jax.jit(_step, static_argnums=0, inline=True)


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
def check_cell(cell: Any, what: str) -> None:
    """Raise unless `cell` is a cell, bare or wrapped: for `what`, which no net has as a whole."""
    if not isinstance(cell, Recurrent):
        order = "the cell comes first, then its parameters"
        one = f"{what} is one cell's: pass a cell with its own parameters and inputs"
        raise fail("cell", shown(cell), "a cell (a Recurrent)", in_place_of(cell, order, one))


def in_place_of(value: Any, order: str, remedy: str = "pass such as LSTM(128)") -> str:
    """What to do where `value` stands in the place of a cell or net.

    Args:
        value: the wrong argument.
        order: of the arguments, for one that is the parameters.
        remedy: for everything that is nothing known.
    """
    if isinstance(value, type) and issubclass(value, Recurrent):
        return f"make one: {value.__name__}(128)"
    if isinstance(value, Mapping):
        return order
    if callable(value):
        return "write a subclass of Cell, or let interop read another library's layer"
    return remedy


def checked_loss(loss: Any) -> Any:
    """`loss`, a function of outputs; the one returned raises where a value is no scalar."""
    check_callable("loss", loss, "a function of ys")

    def checked(ys: Array) -> Array:
        value = as_array("loss", loss(ys))
        if value.shape != () or not is_floating(value.dtype):
            raise fail("loss", f"a function that gives {shown(value)}", "a scalar", "sum it")
        return value

    return checked


def check_params(cell: Any, params: Params, input_size: int, kept: bool = True) -> Params:
    """`params` as plain arrays; raise unless they are what `cell.init` gives, by shape and kind.

    kept: whether the shapes may be kept for a cell that equals this one, and the cell with them.
    """
    shapes = param_shapes if kept else param_shapes.__wrapped__
    wanted = _by_path(shapes(compiled_for(cell), input_size))
    seen = _by_path(params)
    if seen.keys() != wanted.keys():
        params = unboxed(params)
        seen = _by_path(params)
    if seen.keys() != wanted.keys():
        names = f"leaves {' '.join(sorted(seen))}" if any(seen) else shown(params)
        raise fail("params", names, " ".join(sorted(wanted)), "pass what cell.init gives")
    size = f"the cell H = {cell.hidden_size}" if isinstance(cell, Recurrent) else "the net others"
    remedy = f"the inputs have D = {input_size}, {size}: make them agree"
    for path, want in wanted.items():
        _check_leaf(f"params{path}", seen[path], want, "its shape", remedy)
    return params


def unboxed(params: Any) -> Any:
    """Nested dicts of arrays, of such a tree with Flax's boxes (nnx.Param, nn.Partitioned) in it.

    Known by their methods, for the cells do without Flax.
    """
    for method in ("get_value", "unbox"):
        if hasattr(params, method):
            return getattr(params, method)()
    if isinstance(params, Mapping):
        return {name: unboxed(part) for name, part in params.items()}
    return params


@functools.lru_cache(maxsize=1024)
def param_shapes(cell: Any, input_size: int) -> Any:
    """Shapes and dtypes of the parameters of a cell or net as `compiled_for` gives it."""
    cell = drawable(cell, initializers.zeros())
    return jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def _check_leaf(argument: str, leaf: Any, want: Any, letters: str, remedy: str) -> None:
    """Raise unless `leaf` is an array of the wanted shape, floating-point where `want` is."""
    leaf = as_array(argument, leaf)
    check_shape(argument, leaf, want.shape, letters, remedy)
    if is_floating(want.dtype) and not is_floating(leaf.dtype):
        check_floating(argument, leaf)


def check_carry(carry: Carry, wanted: Carry) -> None:
    """Raise unless `carry` has the structure, the shapes and the kind of numbers of `wanted`."""
    if jax.tree.structure(carry) != jax.tree.structure(wanted):
        form = _form(wanted)
        remedy = f"pass {form}" + _rebuilt(carry, wanted)
        raise fail("carry", _form(carry), form, remedy)
    for (path, leaf), want in zip(
        jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(wanted), strict=True
    ):
        argument = f"carry{jax.tree_util.keystr(path)}"
        _check_leaf(argument, leaf, want, "[*batch, H]", "match xs and the cell")


def _form(tree: Any) -> str:
    """A tree of arrays as one writes it: LSTMState(h=..., c=...), (..., ...), {'h': ...}."""
    names = getattr(tree, "_fields", None)
    if isinstance(tree, tuple) and names is not None:
        fields = (f"{name}={_form(x)}" for name, x in zip(names, tree, strict=True))
        return f"{type(tree).__name__}({', '.join(fields)})"
    if isinstance(tree, tuple):
        return f"({', '.join(map(_form, tree))}{',' if len(tree) == 1 else ''})"
    if isinstance(tree, list):
        return f"[{', '.join(map(_form, tree))}]"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name!r}: {_form(x)}' for name, x in tree.items())}}}"
    return "..." if hasattr(tree, "shape") else shown(tree)


def _rebuilt(carry: Any, wanted: Any) -> str:
    """How a carry that a checkpoint gave back as dicts and lists becomes one again, if it did."""
    if not isinstance(carry, (dict, list)):
        return ""
    restore = "restore it with cell.initial_carry(params, batch_shape) as the target"
    name = type(wanted).__name__
    if not hasattr(wanted, "_fields"):
        return f" made of their parts, or {restore}"
    return f", here {name}({'**' if isinstance(carry, dict) else '*'}carry), or {restore}"


def _check_new(method: str, new: Any, carry: Carry) -> None:
    """Raise unless the carry that a cell's own `method` made is of the kind of the one before."""
    if jax.tree.structure(new) != jax.tree.structure(carry):
        form = _form(carry)
        raise fail(method, f"a result {_form(new)}", form, f"return {form} from {method}")
    for (path, leaf), old in zip(
        jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(carry), strict=True
    ):
        name = f"{method}{jax.tree_util.keystr(path)}"
        remedy = f"return the carry of the next step from {method}"
        _check_leaf(name, leaf, old, "the shape before the step", remedy)


def _checked_step(cell: Recurrent, result: Any, carry: Carry) -> tuple[Carry, Array]:
    """What a cell's own `step` returned; raise unless it is (carry, y)."""
    if not isinstance(result, tuple) or len(result) != 2 or hasattr(result, "_fields"):
        wanted = f"({_form(carry)}, y)"
        remedy = f"return the carry and the output from {type(cell).__name__}.step"
        raise fail("step", f"a result {_form(result)}", wanted, remedy)
    _check_new("step", result[0], carry)
    return result


def check_inputs(argument: str, x: Any, letters: str, ndim: int) -> Array:
    """`x` as an array; raise unless it is floating-point and has `ndim` axes or more.

    Without a feature axis (`letters` has no D) it holds integers instead.
    """
    x = as_array(argument, x)
    check_floating(argument, x) if "D" in letters else check_integers(argument, x)
    if x.ndim < ndim:
        raise fail(argument, f"shape {x.shape}", letters, "add the missing axes")
    return x


def check_fit(
    cell: Any, params: Params, carry: Carry | None, input_size: Any, batch: Any, kept: bool = True
) -> Params:
    """`params` as plain arrays; raise unless they and a carry are what a cell or net has.

    Args:
        cell: as `compiled_for` gives it.
        input_size, batch: of its inputs.
        kept: whether what is found may be kept, and the cell with it.

    What fitted once is known by its types: to find the shapes wanted takes longer than a step.
    """
    leaves, tree = jax.tree.flatten((params, carry))
    types = tuple([(np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves])
    known = (cell, tree, types, input_size, batch)
    if kept and known in _FITTING:
        return params
    plain = check_params(cell, params, input_size, kept)
    if carry is not None:
        check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    if plain is not params:  # Boxes are taken off anew each time.
        return plain
    if len(_FITTING) >= 4096:
        _FITTING.clear()
    if kept:
        _FITTING.add(known)
    return params


_FITTING: set[Any] = set()


def check_run(
    cell: Any, params: Params, xs: Any, carry: Carry | None, what: str
) -> tuple[Params, Array]:
    """(params, xs) as arrays; raise unless they and a carry fit one cell over [T, *batch, D]."""
    check_cell(cell, what)
    xs = check_inputs("xs", xs, "[T, *batch, D]", 1 + cell.input_ndim)
    params = check_params(cell, params, xs.shape[-1])
    if carry is not None:
        batch = xs.shape[1 : xs.ndim - cell.input_ndim]
        check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    return params, xs
