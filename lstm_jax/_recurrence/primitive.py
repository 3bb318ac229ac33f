"""The recurrence as a JAX primitive, with every mode of differentiation.

Three primitives: the recurrence, its linearisation, the transpose of that. Each is defined by a
function of `base`, which is also its default lowering; a faster implementation is one more
lowering rule of a platform. The derivative of the first is the second, the transpose of the second
is the third and back, and the derivatives of the second and third are autodiff of their functions.

The operands are pytrees; they travel flattened and their structure is a static parameter. So an
absent mask, a carry of three leaves or a projected input of two arrays need no rule of their own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from .._cells.contract import Recurrent
from .._products import by_kernel, product_tangent
from .._typing import Array, Carry, Params, Pre
from . import base, native
from .base import TIMED, Operands, Outputs, Ran, Residuals, Tangents
from .native.place import on_one_device


class Static(NamedTuple):
    """The static parameters of a bound primitive."""

    cell: Any  # a Cell, or a Vmapped one
    reverse: bool
    native: bool  # whether the CPU runs the kernel
    tree: Any = None  # the structure of the flattened operands
    kept: tuple[bool, ...] | None = None  # which flat results there are; None: all


run_p = Primitive("recurrence")
linearized_p = Primitive("recurrence_linearized")
transposed_p = Primitive("recurrence_transposed")

FUNCTIONS: dict[Primitive, Callable[..., Any]] = {
    run_p: base.run,
    linearized_p: base.linearized,
    transposed_p: base.transposed,
}


def recurrence(cell: Recurrent, reverse: bool, ops: Operands, native: bool = False) -> Ran:
    """`base.run`, as a primitive."""
    return _bind(run_p, Static(cell, reverse, native), ops)


def _bind(primitive: Primitive, static: Static, *operands: Any) -> Any:
    leaves, tree = jax.tree.flatten(operands)
    static = static._replace(tree=tree)
    outs = primitive.bind(*leaves, static=static)
    return _out_structure(primitive, static, leaves).unflatten(outs)


def _out_structure(primitive: Primitive, static: Static, leaves: Sequence[Any]) -> Any:
    types = [x.aval if ad.is_undefined_primal(x) else jax.typeof(x) for x in leaves]
    return jax.tree.structure(_jitted(primitive, static).trace(*types).out_info)


# ---- evaluation and lowering --------------------------------------------------------------------
@lru_cache(maxsize=1024)
def _jitted(primitive: Primitive, static: Static) -> Any:
    """The defining function on flattened operands; one object each, so that jit's cache serves."""

    def function(*leaves):
        operands = _operands(primitive, static, leaves)
        return FUNCTIONS[primitive](static.cell, static.reverse, *operands)

    return jax.jit(function)


def _operands(primitive: Primitive, static: Static, leaves: Sequence[Array]) -> tuple[Any, ...]:
    """The operands; after them which results are wanted, where not all are."""
    operands = jax.tree.unflatten(static.tree, leaves)
    if static.kept is None:
        return operands
    structure = _out_structure(primitive, static._replace(kept=None), leaves)
    return (*operands, structure.unflatten(static.kept))


def _evaluate(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    return jax.tree.leaves(_jitted(primitive, static)(*leaves))


def _types(primitive: Primitive, *types: Any, static: Static) -> list[Any]:
    """The output types are the function's own, so that sharding and varying axes survive."""
    return list(_jitted(primitive, static).trace(*types).jaxpr.out_avals)


def _rule(primitive: Primitive, function: Callable[..., Any]) -> Callable[..., Any]:
    """The lowering rule that calls `function` of the flattened operands."""
    return mlir.lower_fun(partial(function, primitive), multiple_results=True)


def _cpu_rule(primitive: Primitive, ctx: Any, *leaves: Any, static: Static) -> Any:
    """The kernel where it was asked for and runs, or what every platform does."""
    chosen = _by_kernel if static.native and on_one_device(ctx.module_context) else _evaluate
    return _rule(primitive, chosen)(ctx, *leaves, static=static)


def _by_kernel(primitive: Primitive, *leaves: Array, static: Static) -> list[Array]:
    operands = _operands(primitive, static, leaves)
    cell, name = static.cell, FUNCTIONS[primitive].__name__
    results = _types(primitive, *map(jax.typeof, leaves), static=static)
    # One batch more is as any other, where there is nothing that it has for itself.
    while isinstance(cell, Vmapped) and not cell.weights_batched and not operands[0].extras:
        cell = cell.cell
    try:
        if isinstance(cell, Vmapped):
            raise native.Untranslatable("parameters differ from sequence to sequence")
        return native.flat.evaluate(name, cell, static.reverse, operands, results)
    except native.Untranslatable:
        return _evaluate(primitive, *leaves, static=static)


# ---- derivatives --------------------------------------------------------------------------------
def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _dense(tangents: Any) -> Any:
    """`tangents` with symbolic zeros written out."""
    return _map(lambda t: ad.instantiate_zeros(t) if _is_zero(t) else t, tangents)


def _map(function: Callable[[Any], Any], tangents: Any) -> Any:
    """`jax.tree.map` to which a symbolic zero is a leaf (JAX counts it as a node without any)."""
    return jax.tree.map(function, tangents, is_leaf=_is_zero)


def _run_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    kept, static = static.kept, static._replace(kept=None)
    cell, reverse = static.cell, static.reverse
    (ops,) = jax.tree.unflatten(static.tree, primals)
    (dops,) = jax.tree.unflatten(static.tree, tangents)
    dwx = dops.wx
    if ops.projection is not None:
        dwx = product_tangent((ops.wx, *ops.projection), (dops.wx, *dops.projection))
        ops = ops if cell.additive else base.projected(ops)  # wx is a residual of the others.
    outs = _bind(run_p, static, ops)
    res = Residuals(
        ops.weights,
        ops.extras,
        ops.carry,
        ops.origin,
        outs.carries,
        (outs.u,) if cell.additive else (ops.wx, outs.u),
        ops.valid,
        ops.restart,
        ops.noise,
    )
    previous = base.previous_carries(res, reverse)
    dpre = _dpre(static, res, previous, _dense(dwx), dops.weights)
    given = Tangents(_dense(dops.extras), _dense(dops.carry), _dense(dops.origin), dpre)
    douts = _bind(linearized_p, static, res, given)
    # Nothing asks for the tangent of u in a first derivative: it costs nothing there under jit.
    dprevious = base.shifted(given.carry, given.origin, ops.restart, douts.carries, reverse)
    tangent = jax.vmap(partial(base.recur_tangent, cell), in_axes=(None, 0, 0))
    du = dpre[-1] + tangent(ops.weights, previous, dprevious)
    kept = kept or [True] * len(jax.tree.leaves(outs))
    return _where(kept, jax.tree.leaves(outs)), _where(kept, jax.tree.leaves((douts, du)))


def _where(kept: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    return [value for keep, value in zip(kept, values, strict=True) if keep]


def _dpre(
    static: Static, res: Residuals, previous: Carry, dwx: Pre, dweights: Params
) -> tuple[Pre, ...]:
    """dp_t without its feedback part: (dwx, recur(dW, r)), or their sum for an additive cell.

    recur(dW, r) runs for all t at once; its transpose is the gradient of W in one matmul.
    """
    cell = static.cell
    if not all(map(_is_zero, jax.tree.leaves(dweights, is_leaf=_is_zero))):
        of_weights = partial(base.recur_all, cell, carries=previous)
        with by_kernel(static.native):
            _, du = jax.jvp(of_weights, (res.weights,), (_dense(dweights),))
        return base.joined(cell, dwx, du)
    if cell.additive:
        return (dwx.astype(cell.accumulation(dwx.dtype)),)
    return (dwx, jnp.zeros_like(res.pre[-1]))


def _linearized_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    outputs = _out_structure(linearized_p, static, leaves).unflatten(cts)
    # A stacked cotangent that is zero, as c's mostly is, is left out rather than written and read.
    carries = _map(lambda ct: None if _is_zero(ct) else ct, outputs.carries)
    cts = Outputs(_dense(outputs.final), carries)
    out = _bind(transposed_p, static, res, cts)
    return _for_undefined(leaves, given, jax.tree.leaves(out))


def _transposed_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    tangents = _dense(_out_structure(transposed_p, static, leaves).unflatten(cts))
    out = _bind(linearized_p, static, res, tangents)
    slots = static.tree.children()[1].unflatten(range(len(given)))
    present = jax.tree.map(
        lambda slot, o: None if slot is None else o, slots, out, is_leaf=lambda slot: slot is None
    )
    return _for_undefined(leaves, given, jax.tree.leaves(present))


def _split(static: Static, leaves: Sequence[Any]) -> tuple[Residuals, Sequence[Any]]:
    """The residuals, and the flat operands that the primitive is linear in."""
    residuals, _ = static.tree.children()
    count = residuals.num_leaves
    return residuals.unflatten(leaves[:count]), leaves[count:]


def _for_undefined(leaves: Sequence[Any], given: Sequence[Any], outs: Sequence[Array]) -> list[Any]:
    """`outs` for the operands that were asked for, None for the others and the residuals."""
    asked = [o if ad.is_undefined_primal(x) else None for x, o in zip(given, outs, strict=True)]
    return [None] * (len(leaves) - len(given)) + asked


def _autodiff_jvp(
    primitive: Primitive, primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    """The derivative of a derivative: autodiff of the defining function."""
    moving = [i for i, x in enumerate(primals) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]

    def function(*values):
        leaves = list(primals)
        for i, value in zip(moving, values, strict=True):
            leaves[i] = value
        return _evaluate(primitive, *leaves, static=static)

    return jax.jvp(function, [primals[i] for i in moving], [_dense(tangents[i]) for i in moving])


# ---- batching -----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Vmapped:
    """A cell under `vmap`: weights with a leading axis or shared, everything else with one.

    So a vmapped recurrence is a recurrence again, and keeps its derivatives and their speed.
    """

    cell: Any
    weights_batched: bool

    @property
    def additive(self) -> bool:
        return self.cell.additive

    def accumulation(self, dtype: Any) -> Any:
        return self.cell.accumulation(dtype)

    def recur(self, weights: Params, carry: Carry) -> Array:
        axis = 0 if self.weights_batched else None
        return jax.vmap(self.cell.recur, in_axes=(axis, 0))(weights, carry)

    def advance(self, carry: Carry, wx: Pre, u: Array, extras: Params, noise: Any) -> Carry:
        return jax.vmap(self.cell.advance)(carry, wx, u, extras, noise)


def _batch(
    primitive: Primitive, leaves: Sequence[Array], dims: Sequence[int | None], *, static: Static
) -> tuple[list[Array], list[int]]:
    size = next(x.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None)
    fields = _fields(static.tree.unflatten(range(len(leaves))))
    own = {field for field, d in zip(fields, dims, strict=True) if d is not None}
    if "projection" in own:
        return _batch_of_projected(leaves, dims, static)
    shared = {"weights", "projection"} - own
    batched = [
        x if field in shared else _moved(x, d, field in TIMED, size)
        for x, d, field in zip(leaves, dims, fields, strict=True)
    ]
    static = static._replace(cell=Vmapped(static.cell, "weights" in own))
    outs = primitive.bind(*batched, static=static)
    return outs, _batch_axes(primitive, static, batched)


def _batch_of_projected(
    leaves: Sequence[Array], dims: Sequence[int | None], static: Static
) -> tuple[list[Array], list[int]]:
    """A projection for each of the batch is made beforehand."""

    def function(*leaves):
        (ops,) = jax.tree.unflatten(static.tree, leaves)
        leaves, tree = jax.tree.flatten((base.projected(ops),))
        return run_p.bind(*leaves, static=static._replace(tree=tree))

    one = [
        x if d is None else jax.lax.index_in_dim(x, 0, d, False)
        for x, d in zip(leaves, dims, strict=True)
    ]
    axes = _batch_axes(run_p, static, one)
    return jax.vmap(function, in_axes=tuple(dims), out_axes=axes)(*leaves), axes


def _batch_axes(primitive: Primitive, static: Static, leaves: Sequence[Array]) -> list[int]:
    """Where the results have their first batch axis."""
    structure = _out_structure(primitive, static, leaves)
    outs = structure.unflatten(range(structure.num_leaves))
    return [int(field in TIMED) for field in _fields((outs,))]


def _fields(operands: tuple[Any, ...]) -> list[str]:
    """The name of the field that each leaf of the operands stands in."""
    return [
        name
        for operand in operands
        for name, value in zip(operand._fields, operand, strict=True)
        for _ in jax.tree.leaves(value)
    ]


def _moved(x: Array, dim: int | None, axis: int, size: int) -> Array:
    """`x` with its batch axis at `axis`; repeated along a new one where it has none."""
    if dim is not None:
        return jnp.moveaxis(x, dim, axis)
    x = jnp.expand_dims(x, axis)
    return jnp.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


# ---- dead results -------------------------------------------------------------------------------
def _without_dead(used: list[bool], eqn: Any) -> tuple[list[bool], Any]:
    """The equation without the results that nobody uses: in inference u and most carries."""
    if not any(used):
        return [False] * len(eqn.invars), None
    static, flags = eqn.params["static"], iter(used)
    there = static.kept or [True] * len(used)
    kept = tuple(keep and next(flags) for keep in there)
    outvars = _where(used, eqn.outvars)
    eqn = eqn.replace(outvars=outvars, params={"static": static._replace(kept=kept)})
    return [True] * len(eqn.invars), eqn


# ---- registration -------------------------------------------------------------------------------
for _primitive in FUNCTIONS:
    _primitive.multiple_results = True
    _primitive.def_impl(partial(_evaluate, _primitive))
    _primitive.def_abstract_eval(partial(_types, _primitive))
    mlir.register_lowering(_primitive, _rule(_primitive, _evaluate))
    mlir.register_lowering(_primitive, partial(_cpu_rule, _primitive), platform="cpu")
    batching.primitive_batchers[_primitive] = partial(_batch, _primitive)

pe.dce_rules[run_p] = _without_dead
ad.primitive_jvps[run_p] = _run_jvp
ad.primitive_jvps[linearized_p] = partial(_autodiff_jvp, linearized_p)
ad.primitive_jvps[transposed_p] = partial(_autodiff_jvp, transposed_p)
ad.primitive_transposes[linearized_p] = _linearized_transpose
ad.primitive_transposes[transposed_p] = _transposed_transpose
