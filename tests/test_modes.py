"""Every way of differentiating and batching the default implementation, with lengths and resets.

All are compared with one gradient, that of plain "scan" (which `test_parity.py` holds to central
differences), or with central differences of that gradient. Second derivatives are taken along two
directions v_1, v_2 in all arguments at once: of f(x + s_1 v_1 + s_2 v_2) in s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.interpreters import partial_eval as pe
from registry import CASES, EXACT, HARD

import lstm_jax as lj
from lstm_jax import _remat

pytestmark = pytest.mark.sampled

T, B, D, H = 4, 2, 2, 2
FLAGS = {
    "lengths": {
        "seq_lengths": np.array([3, 4], np.int32),
        "resets": np.array([[0, 0], [1, 0], [0, 1], [0, 0]], bool),
    },
    "reverse": {
        "mask": np.array([[1, 0], [0, 1], [1, 1], [1, 0]], bool),
        "resets": np.array([[1, 0], [0, 0], [0, 1], [1, 1]], bool),
        "reverse": True,
    },
}


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


# ---- the problem ---------------------------------------------------------------------------------
def arguments(case, seed=0):
    """(params, xs, carry), of NumPy in float64."""
    rng, cell = np.random.default_rng(seed), case.make(H)
    params = registry.random_params(cell, D, rng)
    return params, rng.standard_normal((T, B, D)), registry.random_carry(cell, params, (B,), rng)


def outputs(case, args, flags="lengths", **options):
    return lj.unroll(case.make(H), *args, **FLAGS[flags], **options)


def head(outs):
    """A scalar of all outputs, asymmetric in time, batch, features, carry."""
    leaves = jax.tree.leaves(outs)
    weights = [jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in leaves]
    return sum(jnp.sum(w * jnp.sin(2 * x)) for w, x in zip(weights, leaves, strict=True))


def loss(case, args, flags="lengths", **options):
    return head(outputs(case, args, flags, **options))


@functools.lru_cache
def reference(case, flags="lengths"):
    """Jitted args -> (loss, gradients) of plain "scan"."""
    return jax.jit(jax.value_and_grad(lambda args: loss(case, args, flags, implementation="scan")))


def directions(args):
    """v_1 and v_2, random."""
    return [registry.normal(args, np.random.default_rng(n)) for n in (1, 2)]


def moved(args, by):
    """args + s_1 v_1 + s_2 v_2."""
    return jax.tree.map(lambda a, v, w: a + by[0] * v + by[1] * w, args, *directions(args))


def slopes(case, args, by):
    """The gradient in s of the loss at `moved(args, s)`: two numbers, by "scan"."""
    _, grads = reference(case)(moved(args, by))
    return np.array([registry.directional(grads, v) for v in directions(args)])


def central(function, at, eps):
    """d function / ds at s, stacked in front; the error is of the order eps**4."""

    def difference(step):
        return (function(at + step) - function(at - step)) / 2

    steps = [eps * one for one in np.eye(2)]
    return np.stack([(8 * difference(s) - difference(2 * s)) / (6 * eps) for s in steps])


# ---- first derivatives ---------------------------------------------------------------------------
@pytest.mark.parametrize("flags", FLAGS)
@registry.cells()
def test_grad(case, flags):
    args = arguments(case)
    seen = jax.jit(jax.value_and_grad(lambda args: loss(case, args, flags)))(args)
    registry.assert_close(seen, reference(case, flags)(args), 1e-10)


@registry.cells(EXACT, dear=True)
def test_jvp(case):
    args, (v, _) = arguments(case), directions(arguments(case))
    value, seen = jax.jit(lambda a, v: jax.jvp(functools.partial(loss, case), (a,), (v,)))(args, v)
    wanted, grads = reference(case)(args)
    registry.assert_close((value, seen), (wanted, registry.directional(grads, v)), 1e-10)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev], ids=lambda mode: mode.__name__)
@registry.cells(EXACT, dear=True)
def test_jacobian(case, mode):
    """Contracted with the cotangent of the head it is the gradient."""
    args = arguments(case)

    def twice(args):
        return (outs := outputs(case, args)), outs

    jacobian, outs = jax.jit(mode(twice, has_aux=True))(args)
    cts = jax.tree.leaves(jax.jit(jax.grad(head))(outs))
    rows = jax.tree.structure(outs).flatten_up_to(jacobian)
    products = [
        jax.tree.map(lambda block, ct=ct: np.tensordot(ct, block, ct.ndim), row)
        for ct, row in zip(cts, rows, strict=True)
    ]
    seen = jax.tree.map(lambda *parts: sum(parts), *products)
    registry.assert_close(seen, reference(case)(args)[1], 1e-10)


@registry.cells(HARD)
def test_the_transpose_of_the_gradient_is_the_tangent(case):
    """A vjp of a vjp's pullback: the transpose of the transpose."""
    args, (v, _) = arguments(case), directions(arguments(case))

    def tangent(args, v):
        out, pullback = jax.vjp(functools.partial(loss, case), args)
        return jax.linear_transpose(pullback, out)((v,))[0]

    _, grads = reference(case)(args)
    registry.assert_close(jax.jit(tangent)(args, v), registry.directional(grads, v), 1e-10)


@registry.cells(HARD)
def test_the_gradient_of_each_argument_alone(case):
    """What else is constant is a symbolic zero to the rules."""
    args = arguments(case)
    leaves, tree = jax.tree.flatten(args)
    wanted = jax.tree.leaves(reference(case)(args)[1])

    def alone(i, leaf):
        return loss(case, tree.unflatten([*leaves[:i], leaf, *leaves[i + 1 :]]))

    seen = jax.jit(lambda ls: [jax.grad(functools.partial(alone, i))(x) for i, x in enumerate(ls)])(
        leaves
    )
    registry.assert_close(seen, wanted, 1e-10)


@registry.cells(HARD)
def test_the_gradient_of_each_output_alone(case):
    """What else is unused has a symbolic zero for its cotangent."""
    args = arguments(case)

    def jacobians(implementation):
        def sums(args):
            outs = outputs(case, args, return_carries=True, implementation=implementation)
            return [jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs)]

        count = len(jax.eval_shape(sums, args))
        return jax.jit(lambda a: [jax.grad(lambda a, i=i: sums(a)[i])(a) for i in range(count)])(
            args
        )

    registry.assert_close(jacobians(None), jacobians("scan"), 1e-10)


# ---- dead results -------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", FLAGS)
@registry.cells(dear=True)
def test_each_output_alone(case, flags):
    """What nobody uses is not computed, and the rest is as it was."""
    args = arguments(case)

    def leaves(args, **options):
        return jax.tree.leaves(outputs(case, args, flags, return_carries=True, **options))

    wanted = jax.jit(lambda args: leaves(args, implementation="scan"))(args)
    seen = [jax.jit(lambda args, i=i: leaves(args)[i])(args) for i in range(len(wanted))]
    registry.assert_close(seen, wanted, 1e-10)


def results(jaxpr):
    """How many results the recurrences in it have."""
    own = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "recurrence"]
    inner = [p.jaxpr for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "jaxpr")]
    return sum(len(eqn.outvars) for eqn in own) + sum(map(results, inner))


@registry.cells(HARD)
def test_what_lost_its_dead_results_is_differentiated_and_batched(case):
    """As `jax.checkpoint` does: first the dead results go, then come the derivatives."""
    args, (v, _) = arguments(case), directions(arguments(case))

    def last(args):
        final, _ = outputs(case, args)
        return head(final)

    leaves, tree = jax.tree.flatten(args)
    traced = jax.make_jaxpr(lambda *leaves: last(tree.unflatten(leaves)))(*leaves)
    lean, _ = pe.dce_jaxpr(traced.jaxpr, [True], instantiate=True)
    assert results(lean) < results(traced.jaxpr)

    def function(args):
        return jax.core.eval_jaxpr(lean, traced.consts, *jax.tree.leaves(args))[0]

    registry.assert_close(
        jax.jit(jax.value_and_grad(function))(args), jax.jit(jax.value_and_grad(last))(args), 1e-12
    )
    both = jax.tree.map(lambda a, v: np.stack([a, a + v]), args, v)
    registry.assert_close(jax.jit(jax.vmap(function))(both), jax.jit(jax.vmap(last))(both), 1e-12)


# ---- higher derivatives --------------------------------------------------------------------------
ORDERS = {
    "fwd_over_rev": jax.hessian,
    "rev_over_rev": lambda f: jax.jacrev(jax.jacrev(f)),
    "rev_over_fwd": lambda f: jax.jacrev(jax.jacfwd(f)),
}


def check_hessian(case, order):
    args = arguments(case)
    seen = jax.jit(ORDERS[order](lambda s: loss(case, moved(args, s))))(jnp.zeros(2))
    wanted = central(functools.partial(slopes, case, args), np.zeros(2), 5e-5)
    registry.assert_close(seen, wanted, 1e-7)


@registry.cells(EXACT)
def test_hessian(case):
    check_hessian(case, "fwd_over_rev")


@pytest.mark.parametrize("order", ["rev_over_rev", "rev_over_fwd"])
@registry.cells(EXACT, dear=True)
def test_hessian_in_the_other_orders(case, order):
    check_hessian(case, order)


@pytest.mark.slow
@registry.cells(EXACT)
def test_third_derivative(case):
    args = arguments(case)
    seen = jax.jit(jax.jacfwd(jax.hessian(lambda s: loss(case, moved(args, s)))))(jnp.zeros(2))

    def hessian(at):
        return central(functools.partial(slopes, case, args), at, 5e-5)

    registry.assert_close(np.moveaxis(seen, -1, 0), central(hessian, np.zeros(2), 2.5e-4), 1e-4)


@pytest.mark.slow
@registry.cells(EXACT)
def test_the_hessian_of_all_parameters(case):
    """Every entry, for the default and for "scan"."""
    args = arguments(case)

    def hessian(implementation):
        def of_params(params):
            return loss(case, (params, *args[1:]), implementation=implementation)

        return jax.jit(jax.hessian(of_params))(args[0])

    registry.assert_close(hessian(None), hessian("scan"), 1e-10)


# ---- batching ------------------------------------------------------------------------------------
def stack(trees, axis=0):
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *trees)


def gradients(case, args):
    return jax.device_get(reference(case)(args)[1])


@registry.cells(dear=True)
def test_vmap_over_inputs(case):
    params, *_ = arguments(case)
    inputs = [arguments(case, seed)[1:] for seed in (1, 2, 3)]
    grad = jax.grad(lambda params, *inputs: loss(case, (params, *inputs)), argnums=(0, 1, 2))
    seen = jax.jit(jax.vmap(grad, in_axes=(None, 1, 1), out_axes=1))(params, *stack(inputs, axis=1))
    registry.assert_close(seen, stack([gradients(case, (params, *i)) for i in inputs], 1), 1e-10)


@registry.cells(dear=True)
def test_vmap_over_parameters(case):
    _, *inputs = arguments(case)
    ensemble = [arguments(case, seed)[0] for seed in (1, 2, 3)]
    grad = jax.grad(lambda params: loss(case, (params, *inputs)))
    seen = jax.jit(jax.vmap(grad))(stack(ensemble))
    wanted = stack([gradients(case, (params, *inputs))[0] for params in ensemble])
    registry.assert_close(seen, wanted, 1e-10)


@registry.cells(dear=True)
def test_grad_of_nested_vmaps(case):
    """Over parameters outside and inputs inside; the gradient outside both."""
    ensemble = [arguments(case, seed)[0] for seed in (1, 2)]
    inputs = [arguments(case, seed)[1:] for seed in (3, 4, 5)]

    def total(ensemble, inputs):
        each = jax.vmap(lambda p, i: loss(case, (p, *i)), in_axes=(None, 0))
        return jnp.sum(jax.vmap(each, in_axes=(0, None))(ensemble, inputs))

    seen = jax.jit(jax.grad(total, argnums=(0, 1)))(stack(ensemble), stack(inputs))
    table = [[gradients(case, (p, *i)) for i in inputs] for p in ensemble]
    add = functools.partial(jax.tree.map, lambda *leaves: sum(leaves))
    by_params = [add(*(g[0] for g in row)) for row in table]
    by_inputs = [add(*(g[1:] for g in column)) for column in zip(*table, strict=True)]
    registry.assert_close(seen, (stack(by_params), stack(by_inputs)), 1e-10)


@pytest.mark.parametrize("names", ["w_ih", "w_hh", "b", "xs", "w_ih xs", "w_ih w_hh b xs"])
@registry.cells(HARD)
def test_inference_under_vmap(case, names):
    """Over some parameters, the inputs, or both: the others are shared."""
    _, _, carry = arguments(case)
    given = [arguments(case, seed) for seed in (1, 2, 3)]
    inputs = [params | {"xs": xs} for params, xs, _ in given]
    members = [{name: each[name] for name in names.split()} for each in inputs]

    def outs(own, implementation=None):
        params = inputs[0] | own
        xs = params.pop("xs")
        return outputs(case, (params, xs, carry), implementation=implementation)

    seen = jax.jit(jax.vmap(outs))(stack(members))
    alone = jax.jit(functools.partial(outs, implementation="scan"))
    registry.assert_close(seen, stack([alone(own) for own in members]), 1e-10)


@registry.cells(HARD)
def test_inference_of_an_ensemble_of_none(case):
    params, *inputs = arguments(case)
    empty = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape)), params)
    seen = jax.jit(jax.vmap(lambda params: outputs(case, (params, *inputs))))(empty)
    wanted = jax.tree.map(lambda leaf: np.asarray(leaf)[None][:0], outputs(case, (params, *inputs)))
    registry.assert_close(seen, wanted, 0)


@registry.cells(HARD)
def test_vmap_over_one_parameter_and_the_flags(case):
    """The other parameters and the inputs are shared, whatever field they are in."""
    (params, *inputs), flags = arguments(case), FLAGS["lengths"]
    name = [*case.make(H).elementwise, "w_hh"][0]
    batched = np.stack([params[name], -params[name]], axis=-1)
    lengths = np.array([[3, 4], [0, 2]], np.int32)
    resets = np.stack([flags["resets"], ~flags["resets"]])

    def outs(weight, lengths, resets, implementation=None):
        given = (params | {name: weight}, *inputs)
        options = {"resets": resets, "seq_lengths": lengths, "implementation": implementation}
        return lj.unroll(case.make(H), *given, **options)

    seen = jax.jit(jax.vmap(outs, in_axes=(-1, 0, 0)))(batched, lengths, resets)
    alone = jax.jit(functools.partial(outs, implementation="scan"))
    wanted = stack([alone(batched[..., i], lengths[i], resets[i]) for i in range(2)])
    registry.assert_close(seen, wanted, 1e-10)


# ---- recomputation -------------------------------------------------------------------------------
def check_remat(case, remat, flags):
    args = arguments(case)
    seen = jax.jit(jax.value_and_grad(lambda args: loss(case, args, flags, remat=remat)))(args)
    registry.assert_close(seen, reference(case, flags)(args), 1e-10)


@pytest.mark.parametrize(("remat", "flags"), [("sqrt", "lengths"), (3, "reverse")])
@registry.cells(dear=True)
def test_remat(case, remat, flags):
    check_remat(case, remat, flags)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("remat", ["minimal", "sqrt", 1, 2, 3, 4, 99, np.int64(3)])
def test_every_remat(remat, flags):
    check_remat(CASES["rnn_tanh"], remat, flags)


@pytest.mark.parametrize("steps", range(11))
def test_remat_sqrt_keeps_no_more_than_two_roots(steps):
    """ceil(sqrt(T)) steps a chunk, so at most as many chunks."""
    chunk = _remat.chunk_length("sqrt", steps)
    assert chunk == max(1, int(np.ceil(np.sqrt(steps))))


@registry.cells(dear=True)
def test_checkpoint(case):
    args = arguments(case)
    seen = jax.jit(jax.value_and_grad(jax.checkpoint(functools.partial(loss, case))))(args)
    registry.assert_close(seen, reference(case)(args), 1e-10)
