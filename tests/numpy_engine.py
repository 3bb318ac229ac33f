"""An engine in NumPy, by callback: all that a new engine has to bring.

One loop over time; at each step a matmul and the cell's elementwise program, interpreted.
"""

import jax
import numpy as np

from lstm_jax._recurrence import equations, inferred
from lstm_jax._recurrence.elementwise import steps
from lstm_jax._recurrence.elementwise.instructions import CONSTANTS, SCRATCH
from lstm_jax._recurrence.engines import Engine
from lstm_jax._recurrence.flat import flattened

FUNCTIONS = {
    "copy": lambda x: x,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "max": np.maximum, "min": np.minimum, "abs": np.abs, "sign": np.sign, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "log": np.log, "tanh": np.tanh,
    "exp2": np.exp2, "expm1": np.expm1, "log1p": np.log1p,
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal,
    "ne": np.not_equal, "and_": np.logical_and, "or_": np.logical_or, "not_": np.logical_not,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "select": lambda which, no, yes: np.where(which, yes, no),
    "dtanh": lambda g, t: g * (1 - t * t), "dlogistic": lambda g, s: g * s * (1 - s),
    "bfloat16": lambda x: x.astype(jax.numpy.bfloat16), "half": lambda x: x.astype(np.float16),
    "single": lambda x: x.astype(np.float32),
    "sum": lambda x: x.sum(-1, keepdims=True), "largest": lambda x: x.max(-1, keepdims=True),
    "accumulate": lambda x: x.sum(0),
}  # fmt: skip


def interpreted(program, rows, arguments):
    """The results of an elementwise program, of arguments [rows, n] or, shared by all rows, [n]."""
    bases, dtype = [base for base, _ in program.arrays], arguments[0].dtype
    places = dict(program.arrays)
    values = {b: np.reshape(a, (rows, -1)) if places[b].batched else np.ravel(a)
              for b, a in zip(bases, arguments, strict=False)}  # fmt: skip
    for base in bases[len(arguments) :]:
        size = places[base].n
        values[base] = np.zeros((rows, size) if places[base].batched else size, dtype)
    kept = {r: np.zeros((rows, n) if b else n, dtype) for r, (n, b) in program.registers}

    values[CONSTANTS] = program.numbers()

    def at(view):
        array = kept[view.root] if view.base == SCRATCH else values[view.base]
        return array, (..., view.offset + view.elem * np.arange(view.n))

    for op, _, out, inputs in program.code:
        whole, place = at(out)
        with np.errstate(all="ignore"):
            made = FUNCTIONS[op](*[array[index] for array, index in map(at, inputs)])
        whole[place] = whole[place] + made if op == "accumulate" else made
    return [values[base] for base in bases[len(arguments) :]]


def chosen(flags, yes, no):
    """Leaf by leaf and row by row: `yes` where the flag holds."""
    return [np.where(flags[:, None], a, b) for a, b in zip(yes, no, strict=True)]


def at(t, *trees):
    """The leaves of step t, in their order."""
    return [np.asarray(leaf)[t] for leaf in jax.tree.leaves(trees)]


def times(h, weights, width):
    """h @ w; zeros where there is no matrix."""
    return h @ np.asarray(weights[0]) if weights else np.zeros((len(h), width), h.dtype)


def walked(body, operands, results):
    """What `body` makes of flat operands, NumPy's arrays, in results of these types."""

    def host(*leaves):
        made = jax.tree.leaves(body(*tree.unflatten(map(np.asarray, leaves))))
        return [np.asarray(x, like.dtype) for x, like in zip(made, types, strict=True)]

    leaves, tree = jax.tree.flatten(operands)
    types, out = jax.tree.flatten(results)
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in types]
    return out.unflatten(jax.pure_callback(host, types, *leaves))


def order(count, reverse):
    return range(count)[:: -1 if reverse else 1]


def run(recurrence, reverse, ops, kept=None):
    """s_t and u_t, step by step."""
    cell, (ops,) = flattened(recurrence, (equations.projected(ops),), DTYPES)
    ops = ops._replace(carry=cell.beside(ops.carry), origin=cell.beside(ops.origin))
    (count, rows), width = jax.tree.leaves(ops.wx)[0].shape[:2], cell.u.shape[0]
    u = jax.ShapeDtypeStruct((count, rows, width), cell.u.dtype)
    pre = (u,) if cell.additive else (ops.wx, u)
    program = steps.run(cell, OPERATIONS, steps.step_of(ops.carry, pre, ops))

    def body(ops):
        carry, all_steps = jax.tree.leaves(ops.carry), [None] * count
        for t in order(count, reverse):
            if ops.restart is not None:
                carry = chosen(ops.restart[t], jax.tree.leaves(ops.origin), carry)
            u_t, wx = times(carry[0], ops.weights, width), at(t, ops.wx)
            pre = [wx[0] + u_t] if cell.additive else [*wx, u_t]
            given = [*carry, *pre, *jax.tree.leaves(ops.extras), *at(t, ops.noise)]
            new = interpreted(program, rows, [x.astype(u_t.dtype) for x in given])
            carry = new if ops.valid is None else chosen(ops.valid[t], new, carry)
            all_steps[t] = [*carry, pre[-1]]
        *carries, us = [np.stack(leaf) for leaf in zip(*all_steps, strict=True)]
        return carry, carries, us

    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), ops.carry)
    ran = equations.Ran(*walked(body, (ops,), (ops.carry, wide, u)))
    if cell.rounded is not None:
        ran = ran._replace(final=ran.final.carry, carries=ran.carries.carry)
    return ran if kept is None else equations.Ran(*map(equations.only, kept, ran))


def linearized(recurrence, reverse, res, tangents):
    """ds_t, step by step."""
    cell, (res, given) = flattened(recurrence, (res, tangents), DTYPES)
    (count, rows), width = res.pre[-1].shape[:2], cell.u.shape[0]
    program = steps.linearized(cell, OPERATIONS, steps.step_of(res.carry, res.pre, res))

    def body(res, previous, d):
        ds, all_steps, extras = jax.tree.leaves(d.carry), [None] * count, res.extras
        for t in order(count, reverse):
            if res.restart is not None:
                ds = chosen(res.restart[t], jax.tree.leaves(d.origin), ds)
            *dwx, du = at(t, d.pre)
            du = du + times(ds[0], res.weights, width)
            point = [*at(t, previous, res.pre), *jax.tree.leaves(extras), *at(t, res.noise)]
            point += [*ds, *dwx, du, *jax.tree.leaves(d.extras)]
            new = interpreted(program, rows, [x.astype(du.dtype) for x in point])
            ds = new if res.valid is None else chosen(res.valid[t], new, ds)
            all_steps[t] = ds
        return ds, [np.stack(leaf) for leaf in zip(*all_steps, strict=True)]

    previous = equations.previous_carries(res, reverse)
    return equations.Outputs(*walked(body, (res, previous, given), (res.carry, res.carries)))


def transposed(recurrence, reverse, res, cts):
    """Backpropagation through time, step by step."""
    cell, (res, cts) = flattened(recurrence, (res, cts), DTYPES)
    count, rows = res.pre[-1].shape[:2]
    none = jax.tree.map(lambda _: None, cts.final)
    program = steps.transposed(cell, OPERATIONS, steps.step_of(res.carry, res.pre, res), none)
    given = [ct is not None for ct in jax.tree.leaves(cts.carries, is_leaf=lambda x: x is None)]

    def body(res, previous, cts):
        a, dpre, s = jax.tree.leaves(cts.final), [None] * count, len(given)
        dorigin = [np.zeros_like(x) for x in a]
        dextras = [np.zeros_like(x) for x in jax.tree.leaves(res.extras)]
        for t in order(count, not reverse):
            more = iter(at(t, cts.carries))
            a = [x + next(more) if there else x for x, there in zip(a, given, strict=True)]
            zeros = [np.zeros_like(x) for x in a]
            through = a if res.valid is None else chosen(res.valid[t], a, zeros)
            point = [*at(t, previous, res.pre), *jax.tree.leaves(res.extras), *at(t, res.noise)]
            outs = interpreted(program, rows, [x.astype(a[0].dtype) for x in [*point, *through]])
            q, dpre[t], more = (
                outs[:s],
                outs[s : len(outs) - len(dextras)],
                outs[len(outs) - len(dextras) :],
            )
            q[0] = q[0] + (dpre[t][-1] @ res.weights[0].T if res.weights else 0)
            dextras = [x + m.reshape(x.shape) for x, m in zip(dextras, more, strict=True)]
            if res.valid is not None:
                q = [x + y for x, y in zip(q, chosen(res.valid[t], zeros, a), strict=True)]
            if res.restart is not None:
                back = chosen(res.restart[t], q, zeros)
                dorigin = [x + y for x, y in zip(dorigin, back, strict=True)]
                q = chosen(res.restart[t], zeros, q)
            a = q
        origin = [] if res.restart is None else dorigin
        return dextras, a, origin, [np.stack(leaf) for leaf in zip(*dpre, strict=True)]

    origin = None if res.restart is None else cts.final
    like = equations.Tangents(res.extras, cts.final, origin, res.pre)
    previous = equations.previous_carries(res, reverse)
    return walked(body, (res, previous, cts), like)


DTYPES = ("float32", "float64")
OPERATIONS = tuple(FUNCTIONS)
ENGINE = Engine(
    lambda cell, platform: inferred.why_not(cell), run, linearized, transposed, ("cpu",)
)
