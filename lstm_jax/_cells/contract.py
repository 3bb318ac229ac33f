"""`Recurrent`, the interface between a cell and the engine, and the checks of their arguments.

`Cell` is the base class of bare cells, `Wrapper` of those around another cell.
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
    check_flags,
    check_floating,
    check_integers,
    check_scalar,
    check_shape,
    fail,
    is_floating,
    is_function,
    misfits,
    shown,
    unboxed,
)
from .._numerics import cast, expand_to, matmul
from .._static import Static, Unread, compiled_for, drawable
from .._typing import Array, Carry, DType, Key, Params, Pre
from .closures import closes_over_traced


class Recurrent(Static, abc.ABC):
    """Base class of everything that `unroll` scans: cells, bare or in wrappers such as `zoneout`.

    `isinstance(x, Cell)` is True for a bare cell only, `isinstance(x, Net)` for a net such as
    `stack` builds. To write your own cell, subclass `Cell`; its docstring has the equations and
    explains the attributes.

    Attributes:
        hidden_size: H, the number of hidden units.
        gate_names: the names of the G gates, in stored order.
        state: the NamedTuple of the carry.
        recurrent: names of the parameters that `recur` uses.
        elementwise: names of further parameters, passed to `update` as keywords.
        input_ndim: number of feature axes of one input x_t.
        candidate: name of the gate with the new content of the state, which `memory_dropout` masks
            by the `noise` of `update`; None: it cannot be masked.
        implementations: names of the implementations that may run it; None: all that can.
    """

    hidden_size: int
    gate_names: Any
    state: Any
    recurrent: Any
    elementwise: Any
    input_ndim: Any
    candidate: Any
    implementations: tuple[str, ...] | None = None

    # ---- a subclass must define -----------------------------------------------------------------
    def update(self, carry: Carry, wx: Pre, u: Array, **extras: Any) -> Carry:
        """Compute carry_t from carry_{t-1}, wx_t and u_t, elementwise, in one dtype."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    @abc.abstractmethod
    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters, in `param_dtype`."""

    @abc.abstractmethod
    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry before the first step, leaves [*batch_shape, ...]."""

    @abc.abstractmethod
    def project(self, params: Params, x: Array) -> Pre:
        """Project inputs x [*batch, D] to wx, for any number of batch axes."""

    @abc.abstractmethod
    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u from the carry. -> [*batch, G*H]"""

    @abc.abstractmethod
    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """The dtype of the inputs of the matmuls and of ys."""

    @abc.abstractmethod
    def carry_dtypes(self, compute: DType) -> Carry:
        """The dtype of each leaf of the carry, in the carry's own structure."""

    @abc.abstractmethod
    def accumulation(self, dtype: DType) -> np.dtype:
        """The dtype inside the matmuls and `update`, for inputs of `dtype`."""

    # ---- a subclass may define ------------------------------------------------------------------
    def output(self, params: Params, carry: Carry) -> Array:
        """The output y = h of a carry, whose leaves all have one dtype. -> [*batch, H]"""
        del params
        return carry[0]

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of training once for a whole sequence: (params, xs, noise).

        Args:
            key: the key given to `unroll`.
            params: as from `init`; those returned may also hold masks for `recur`.
            xs: [T, *batch, D], zero at steps that are not valid.

        Returns:
            (params, xs, noise): noise is None or a pytree of floating-point arrays
            [T, *batch, ...], of which `update` gets one step as the keyword `noise` (without a key
            it gets none). No gradient flows through it.
        """
        del key
        return params, xs, None

    @property
    def stochastic(self) -> bool:
        """True if training draws random numbers, so that `unroll` needs a key for it."""
        return type(self).training is not Recurrent.training

    def step(
        self, params: Params, carry: Carry, x: Array, reset: Array | None = None
    ) -> tuple[Carry, Array]:
        """Run one time step, for streaming: the same numbers as `unroll` in evaluation.

        Args:
            params: as from `init`.
            carry: as from `initial_carry`, or the carry that the last step returned.
            x: [*batch, D].
            reset: [*batch] bool, True where an episode starts: there the carry goes back to
                `initial_carry` before the step, as by `resets` of `unroll`.

        Returns:
            (carry, y): y is [*batch, H] in the compute dtype.

        Raises:
            ValueError: a wrong shape or dtype.
        """
        return compiled_step(self, params, carry, x, reset)

    def following(self, params: Params, carry: Carry, wx: Pre, noise: Any = None) -> Carry:
        """Compute carry_t from carry_{t-1} and wx_t, by `recur` and `update`."""
        return self.advance(carry, wx, self.recur(params, carry), self.extras(params), noise)

    def whole(self, run: Any, params: Params, seq: Any, reverse: bool) -> tuple[Carry, Any]:
        """Run a whole sequence: `run(cell, params, seq)`, with this cell or with parts of it.

        Args:
            run: the implementation that was chosen, with `remat`.
            seq: the inputs, carry, valid steps and restarts, a `Sequence`.
            reverse: True if the sequence is walked backwards.

        Returns:
            (final carry, (ys, carries of all steps)), as `run` does.
        """
        del reverse
        return run(self, params, seq)

    @property
    def part(self) -> Any:
        """The cell that `whole` gives to implementations: this one, or one that it has in parts."""
        return self

    # ---- the engine derives ---------------------------------------------------------------------
    @property
    def factors(self) -> bool:
        """True if a step factors into `project`, `recur` and `update`."""
        return type(self).update is not Recurrent.update and not self.own_step

    @property
    def own_step(self) -> bool:
        return type(self).step is not Recurrent.step

    def unchecked_step(
        self, params: Params, carry: Carry, x: Array, noise: Any = None
    ) -> tuple[Carry, Array]:
        """Run `step` without its checks of arguments, and with the noise of training."""
        if self.own_step:
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
        return _drawn(self, "elementwise", params)

    def weights(self, params: Params) -> Params:
        """The parameters that `recur` takes."""
        return _drawn(self, "recurrent", params)

    def types_of_carry(self, params: Params) -> Carry:
        """The dtype of each leaf of the carry, independent of the inputs' dtype.

        So it is known before the first input, and steps do not change it.
        """
        return self.carry_dtypes(self.compute_dtype(params))

    def prepare(self, params: Params, x: Array, carry: Carry) -> tuple[Params, Array, Carry]:
        """Convert parameters and x to the compute dtype, and the carry to its dtypes."""
        compute = self.compute_dtype(params, x)
        carry = jax.tree.map(
            lambda leaf, dtype: jnp.asarray(leaf, dtype), carry, self.types_of_carry(params)
        )
        return cast(params, compute), x.astype(compute), carry

    def matmul(
        self, x: Array, w: Array, biases: Sequence[Array] = (), result: DType | None = None
    ) -> Array:
        """Compute x @ w + b, with inputs of w's dtype and sums in the accumulation dtype.

        The result has the dtype `result`, by default the accumulation dtype.
        """
        return matmul(x.astype(w.dtype), w, self.accumulation(w.dtype), biases, result)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any = None) -> Carry:
        """Call `update` in the accumulation dtype; return the carry in its own dtypes."""
        given: Any = extras if noise is None else {**extras, "noise": noise}
        carry_in, wx, given = cast((carry, wx, given), u.dtype)
        new = updated(self, carry_in, wx, u, given)
        _check_new("update", new, carry)
        return jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, carry)

    def emit(self, params: Params, carry: Carry, dtype: DType) -> Array:
        """Call `output` in the accumulation dtype; return y in the compute dtype `dtype`."""
        given = cast(carry, self.accumulation(dtype))
        try:
            y = self.output(params, given)
        except TypeError as error:
            if not misfits(error):
                raise
            kind, remedy = type(self).__name__, "take these two, whether you use them or not"
            raise fail(f"{kind}.output", str(error), "output(params, carry)", remedy) from None
        return y.astype(dtype)


def _drawn(cell: Recurrent, attribute: str, params: Params) -> Params:
    """Select the parameters that an attribute names; raise for one that `init` did not draw."""
    names = getattr(cell, attribute)
    for name in names:
        if name not in params:
            kind, found = type(cell).__name__, ", ".join(params)
            wanted, remedy = f"names of what init draws: {found}", "return it from `init` too"
            raise fail(f"{kind}.{attribute}", repr(name), wanted, remedy)
    return {name: params[name] for name in names}


def updated(cell: Any, carry: Carry, wx: Pre, u: Array, given: Mapping[str, Any]) -> Carry:
    """Call a cell's `update`; raise in words if it does not take the arguments `given` by name."""
    try:
        return cell.update(carry, wx, u, **given)
    except TypeError as error:
        if not misfits(error):
            raise
        kind, names = type(cell).__name__, ", ".join(["carry", "wx", "u", *given])
        remedy = (
            f"{kind}.elementwise names the parameters that it takes beside these, `init` returns "
            "them, and `noise` is what `training` draws"
        )
        raise fail(f"{kind}.update", str(error), f"update({names})", remedy) from None


def compiled_step(
    cell: Any, params: Params, carry: Carry, x: Any, reset: Any = None
) -> tuple[Carry, Array]:
    """Check the arguments of a cell's or net's `step`, then run it compiled."""
    letters = "[*batch, D]" if cell.input_ndim else "[*batch]"
    x = check_inputs("x", x, letters, cell.input_ndim)
    cell = compiled_for(cell)
    traced = closes_over_traced(cell)  # Then no result may be cached.
    if carry is None:
        remedy = "pass cell.initial_carry(params, batch_shape), or what the last step returned"
        raise fail("carry", "None", "the carry before this step", remedy)
    size, batch = sizes_of(cell, x.shape)
    reset = check_flags("reset", reset, batch, "[*batch]")
    params = check_fit(cell, params, carry, size, batch, kept=not traced)
    return (_step if traced else _jitted_step)(cell, params, carry, x, reset)


def _step(
    cell: Any, params: Params, carry: Carry, x: Array, reset: Array | None
) -> tuple[Carry, Array]:
    """Run one step; inside another jit it becomes a part of that program."""
    carry = restarted(cell, params, carry, reset)
    # Not `unchecked_step` for a cell: the cell's own `step` may have called this by `super`.
    run = cell._derived_step if isinstance(cell, Recurrent) else cell.unchecked_step
    return run(params, carry, x)


def restarted(cell: Any, params: Params, carry: Carry, reset: Array | None) -> Carry:
    """Put the carry back to the start of `cell` where reset [*batch] is True."""
    if reset is None:
        return carry
    flags = jnp.asarray(reset)

    def chosen(start: Array, leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(expand_to(flags, leaf), start.astype(leaf.dtype), leaf)

    return jax.tree.map(chosen, cell.initial_carry(params, flags.shape), carry)


_jitted_step = jax.jit(_step, static_argnums=0, inline=True)


def sizes_of(cell: Any, shape: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Split the shape of inputs into (D, batch axes); D is 0 without a feature axis."""
    features = cell.input_ndim
    return (shape[-1], shape[:-features]) if features else (0, shape)


def options(cell: Any) -> dict[str, str]:
    """The fields of a cell that differ from their defaults: {name: repr}."""
    fields = [(f.name, getattr(cell, f.name), f.default) for f in dataclasses.fields(cell)]
    fields = [each for each in fields if type(each[1]) is not Unread]
    return {name: repr(value) for name, value, default in fields if value != default}


# ---- errors for callers --------------------------------------------------------------------------
def check_cell(cell: Any, what: str) -> None:
    """Raise unless `cell` is a cell, bare or wrapped: for `what`, which no net has as a whole."""
    if not isinstance(cell, Recurrent):
        order = "the order is (cell, params, ...)"
        one = f"{what} is one cell's: pass a cell with its own parameters and inputs"
        raise fail("cell", shown(cell), "a cell (a Recurrent)", in_place_of(cell, order, one))


def in_place_of(value: Any, order: str = "", remedy: str = "pass for example LSTM(128)") -> str:
    """Remedy for a `value` passed in place of a cell or net.

    Args:
        value: the wrong argument.
        order: the remedy if it is a mapping, presumably the parameters.
        remedy: the remedy for any other value.
    """
    if isinstance(value, type) and issubclass(value, Recurrent):
        return f"make one: {value.__name__}(128)"
    if isinstance(value, Mapping) and order:
        return order
    if is_function(value):
        return "a function goes into a stack, as in stack(LSTM(128), jax.nn.relu)"
    if callable(value):
        return "write a subclass of Cell, or import another library's layer with interop"
    return remedy


def checked_loss(loss: Any) -> Any:
    """Wrap `loss`, a function of outputs, to raise unless its value is a scalar."""
    check_callable("loss", loss, "a function of ys")

    def checked(ys: Array) -> Array:
        return check_scalar("loss", loss(ys))

    return checked


def check_params(cell: Any, params: Params, input_size: int, kept: bool = True) -> Params:
    """Convert `params` to plain arrays; raise unless names and shapes are those of `cell.init`.

    kept: True allows caching of the shapes, and with them of the cell.
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
        own = remedy
        if np.ndim(seen[path]) != want.ndim and np.size(seen[path]) == want.size:
            own = "lay them out as this net is, by sharding.split_params or join_params"
        _check_leaf(f"params{path}", seen[path], want, "its shape", own)
    return params


@functools.lru_cache(maxsize=1024)
def param_shapes(cell: Any, input_size: int) -> Any:
    """Shapes and dtypes of the parameters of a cell or net, as `compiled_for` returns it."""
    cell = drawable(cell, initializers.zeros())
    return jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def _check_leaf(argument: str, leaf: Any, want: Any, letters: str, remedy: str) -> None:
    """Raise unless `leaf` is an array of the shape of `want`, and floating-point if `want` is."""
    leaf = as_array(argument, leaf)
    check_shape(argument, leaf, want.shape, letters, remedy)
    if is_floating(want.dtype) and not is_floating(leaf.dtype):
        check_floating(argument, leaf)


def check_carry(carry: Carry, wanted: Carry) -> None:
    """Raise unless `carry` has the structure and shapes of `wanted`, and floats where it has."""
    if jax.tree.structure(carry) != jax.tree.structure(wanted):
        form, seen = _form(wanted), _form(carry)
        remedy = f"pass {form}" + _rebuilt(carry, wanted)
        if isinstance(carry, (jax.Array, np.ndarray)):
            seen, remedy = shown(carry), f"{remedy}; lengths, masks and resets are passed by name"
        raise fail("carry", seen, form, remedy)
    for (path, leaf), want in zip(
        jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(wanted), strict=True
    ):
        argument = f"carry{jax.tree_util.keystr(path)}"
        _check_leaf(argument, leaf, want, "[*batch, H]", "match xs and the cell")


def _form(tree: Any) -> str:
    """Format a tree of arrays as code: LSTMState(h=..., c=...), (..., ...), {'h': ...}."""
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
    """Remedy for a carry that a checkpoint has restored as dicts or lists; else ""."""
    if not isinstance(carry, (dict, list)):
        return ""
    restore = "restore it with cell.initial_carry(params, batch_shape) as the target"
    name = type(wanted).__name__
    if not hasattr(wanted, "_fields"):
        return f" made of their parts, or {restore}"
    return f", here {name}({'**' if isinstance(carry, dict) else '*'}carry), or {restore}"


def _check_new(method: str, new: Any, carry: Carry) -> None:
    """Raise unless the carry that a cell's `method` returned has the structure of the last one."""
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
    """Return the result of a cell's own `step`; raise unless it is (carry, y)."""
    if not isinstance(result, tuple) or len(result) != 2 or hasattr(result, "_fields"):
        wanted = f"({_form(carry)}, y)"
        remedy = f"return the carry and the output from {type(cell).__name__}.step"
        raise fail("step", f"a result {_form(result)}", wanted, remedy)
    _check_new("step", result[0], carry)
    return result


def check_inputs(argument: str, x: Any, letters: str, ndim: int) -> Array:
    """Convert `x` to an array; raise unless it is floating-point with at least `ndim` axes.

    Without a feature axis (`letters` has no D) it must hold integers.
    """
    x = as_array(argument, x)
    if "D" in letters:
        check_floating(argument, x, ", or wrap the net in lj.embedding if these are token numbers")
    else:
        check_integers(argument, x)
    if x.ndim < ndim:
        raise fail(argument, f"shape {x.shape}", letters, "add the missing axes")
    return x


def check_fit(
    cell: Any, params: Params, carry: Carry | None, input_size: Any, batch: Any, kept: bool = True
) -> Params:
    """Convert `params` to plain arrays; raise unless they and the carry fit the cell or net.

    Args:
        cell: the cell or net, as `compiled_for` returns it.
        input_size, batch: D and the batch axes of the inputs.
        kept: True allows caching of the result, and with it of the cell.

    A fit is cached by shapes and dtypes, as working out the wanted shapes takes longer than a step.
    """
    leaves, tree = jax.tree.flatten((params, carry))
    types = tuple([(np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves])
    known = (cell, tree, types, input_size, batch)
    if kept and known in _FITTING:
        return params
    plain = check_params(cell, params, input_size, kept)
    if carry is not None:
        check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    if plain is not params:  # Boxes must be removed in every call.
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
    """Convert (params, xs) to arrays; raise unless they and the carry fit the cell."""
    check_cell(cell, what)
    xs = check_inputs("xs", xs, "[T, *batch, D]", 1 + cell.input_ndim)
    params = check_params(cell, params, xs.shape[-1])
    if carry is not None:
        batch = xs.shape[1 : xs.ndim - cell.input_ndim]
        check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, batch)))
    return params, xs
