"""`inspect` tells the truth about the compiled program, whatever it is made of."""

import dataclasses
import doctest
import functools
import operator

import jax
import jax.export
import jax.numpy as jnp
import pytest
import registry
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lstm_jax as lj

T, B, D, H = 3, 8, 2, 4
FASTEST = registry.FASTEST


def types(cell, batch=(B,)):
    """Those of (params, xs)."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    return params, jax.ShapeDtypeStruct((T, *batch, D), "float32")


def loss(cell, **options):
    def run(params, xs):
        carry, ys = lj.unroll(cell, params, xs, **options)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(carry))

    return run


def calls(found):
    return [(each.implementation, each.call) for each in found]


def many(params):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((5, *x.shape), x.dtype), params)


# ---- what a record says --------------------------------------------------------------------------
@pytest.mark.parametrize("make", [lj.RNN, lj.LSTM, lj.GRU])
def test_forward_and_gradient(make):
    """Of a plain cell both are the kernel's, where there is one."""
    cell = make(H)
    found = lj.inspect(jax.grad(loss(cell)), *types(cell))
    why = None if FASTEST == "native" else found[0].why
    ran = lj.Inspected(FASTEST, "run", str(cell), T, (B,), D, H, "float32", False, why)
    assert found == (ran, dataclasses.replace(ran, call="transposed"))
    assert lj.inspect(lj.unroll, cell, *types(cell)) == (ran,)
    assert isinstance(found, lj.Inspection) and isinstance(found, tuple)


def test_direction_axes_and_dtype():
    cell = lj.LSTM(H, peepholes=True)
    params, xs = types(cell, (2, 5))
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16"), (params, xs))
    options = {"reverse": True, "time_major": False}
    (seen,) = lj.inspect(lj.unroll, cell, *half, **options)
    assert (seen.reverse, seen.steps, seen.batch, seen.dtype) == (True, 5, (T, 2), "bfloat16")
    assert (seen.cell, seen.input_size, seen.hidden_size) == (str(cell), D, H)


def test_it_prints_as_a_table():
    cell = lj.LSTM(H)
    found = lj.inspect(jax.grad(loss(cell, implementation="fused")), *types(cell))
    head, first, second = str(found).splitlines()
    assert head.split("  ")[0] == "run by" and head.endswith("why not faster")
    for line, call in ((first, "run"), (second, "transposed")):
        words = line.split()
        assert words[:3] == ["fused", call, "LSTM(hidden_size=4)"]
        assert words[3:9] == ["3", "8", "2", "4", "float32", "forwards"]
    if FASTEST == "native":
        assert first.endswith("native: another was asked for")
    assert str(lj.inspect(jnp.sin, jnp.zeros(2))) == "no recurrence"


def test_what_is_no_function_is_told():
    with pytest.raises(ValueError, match="function: got .*, wanted a function; pass it and its"):
        lj.inspect(3, jnp.zeros(2))


# ---- which programs ------------------------------------------------------------------------------
@registry.needs_kernel
def test_why_the_kernel_does_not_run():
    cell = lj.GRU(H)
    params, xs = types(cell)
    each = jax.vmap(jax.grad(loss(cell)), in_axes=(None, 1))
    run, back = lj.inspect(each, params, xs)
    assert (run.implementation, run.why) == ("native", None)
    assert (back.implementation, back.call, back.batch) == ("fused", "transposed", (B,))
    assert back.why == "parameters differ from sequence to sequence"
    dropped = lj.recurrent_dropout(lj.LSTM(H), 0.5)
    (seen,) = lj.inspect(lj.unroll, dropped, *types(dropped), key=jax.random.key(0))
    assert seen.why == "its recur is not the same for every sequence"
    (seen,) = lj.inspect(lj.unroll, dropped, *types(dropped))
    assert seen.implementation == "native"


def test_one_step_is_left_to_xla_unless_the_kernel_is_named():
    cell = lj.GRU(4)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    for steps in (1, 2):
        xs = jax.ShapeDtypeStruct((steps, 2, 3), jnp.float32)

        def loss(params, xs, implementation=None):
            return lj.unroll(cell, params, xs, implementation=implementation)[1].sum()

        found = lj.inspect(jax.grad(loss), params, xs)
        wanted = registry.FASTEST if steps > 1 else "fused"
        assert [row.implementation for row in found] == [wanted] * 2
        if registry.FASTEST != "native":
            continue
        assert [bool(row.why) for row in found] == [steps == 1] * 2
        for names in ("native", ("native", "fused")):
            named = lj.inspect(jax.grad(loss), params, xs, names)
            assert [row.implementation for row in named] == ["native"] * 2


@registry.needs_kernel
def test_what_select_rejected_is_told():
    cell = lj.LSTM(H, projection_size=2)
    (seen,) = lj.inspect(lj.unroll, cell, *types(cell))
    assert seen.implementation == "fused"
    assert seen.why == f"native: {lj.which(cell).rejected['native']}"
    cell = lj.GRU(H, reset_after=False)
    (seen,) = lj.inspect(lj.unroll, cell, *types(cell))
    assert seen.implementation == "scan" and "fused: GRU(reset_after=False) does not" in str(
        seen.why
    )


def test_second_derivatives_are_visible():
    cell = lj.LSTM(H)
    twice = lj.inspect(jax.jacrev(jax.grad(loss(cell), argnums=1), argnums=1), *types(cell))
    assert calls(twice)[:2] == [(FASTEST, "run"), ("fused", "transposed")]
    assert all("derivative of a derivative" in str(each.why) for each in twice[1:-1])
    forward = lj.inspect(jax.hessian(loss(cell), argnums=1), *types(cell))
    assert [each.call for each in forward] == ["run", "linearized", "transposed"]
    assert forward[2].implementation == "fused"


def test_nets_layer_by_layer():
    net = lj.stack(lj.bidirectional(lj.LSTM(H)), lj.GRU(H), lj.GRU(H))
    found = lj.inspect(lj.unroll, net, *types(net))
    names = [(each.cell.split("(")[0], each.input_size, each.reverse) for each in found]
    assert names == [
        ("LSTM", D, False),
        ("LSTM", D, True),
        ("GRU", 2 * H, False),
        ("GRU", H, False),
    ]
    assert len(lj.inspect(jax.grad(loss(net)), *types(net))) == 8


def test_vmap_over_parameters():
    cell = lj.LSTM(H)
    params, xs = types(cell)
    found = lj.inspect(jax.vmap(jax.grad(loss(cell)), in_axes=(0, None)), many(params), xs)
    assert calls(found) == [(FASTEST, "run"), (FASTEST, "transposed")]
    assert {each.batch for each in found} == {(5, B)}


def test_loops_branches_and_what_is_made_again():
    cell = lj.LSTM(H)
    run = loss(cell)

    def both(params, xs):
        def loop(total, _):
            return total + run(params, xs), None

        looped = functools.partial(jax.lax.scan, loop, jnp.zeros(()), length=2)
        return jax.lax.cond(xs[0, 0, 0] > 0, lambda: run(params, xs), lambda: looped()[0])

    assert calls(lj.inspect(both, *types(cell))) == [(FASTEST, "run")] * 2
    again = calls(lj.inspect(jax.value_and_grad(jax.checkpoint(run)), *types(cell)))
    assert sorted(again) == [(FASTEST, "run")] * 2 + [(FASTEST, "transposed")]
    chunks = lj.inspect(jax.grad(loss(cell, remat=2)), *types(cell))
    assert {each.steps for each in chunks} == {1, 2}


@pytest.mark.parametrize("name", ["scan", "associative"])
def test_plain_loops(name):
    """What JAX differentiates itself."""
    cell = lj.MinGRU(H)
    found = lj.inspect(jax.grad(loss(cell, implementation=name)), *types(cell))
    assert calls(found) == [(name, "run"), (name, "transposed")]
    assert found[0] == dataclasses.replace(found[1], call="run")
    assert found[0].steps == T and found[0].batch == (B,) and found[0].input_size == D


@pytest.mark.parametrize("implementation", [None, "scan"])
def test_caches_hide_nothing(implementation):
    """What was traced, lowered and compiled before is listed; and as often as it is called."""
    cell = lj.LSTM(H)
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((T, B, D))
    run = jax.jit(loss(cell, implementation=implementation))
    first = lj.inspect(run, params, xs)
    run(params, xs)
    lj.unroll(cell, params, xs, implementation=implementation)
    assert len(first) == 1 and lj.inspect(run, params, xs) == first
    assert len(lj.inspect(lambda *args: run(*args) + run(*args) * 2, params, xs)) == 2
    jitted = jax.jit(operator.call, static_argnums=0)
    assert lj.inspect(jitted, run, params, xs) == first


# ---- devices and exports -------------------------------------------------------------------------
def test_arrays_that_are_split_and_shard_map():
    cell = lj.GRU(H)
    params, xs = types(cell)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run, specs = jax.grad(loss(cell)), (P(), P(None, "data"))
    split = jax.ShapeDtypeStruct(xs.shape, xs.dtype, sharding=NamedSharding(mesh, specs[1]))
    outside = lj.inspect(run, params, split)
    assert calls(outside) == [("fused", "run"), ("fused", "transposed")]
    assert FASTEST == "fused" or all("devices share" in str(each.why) for each in outside)
    mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P())
    inside = lj.inspect(mapped, params, split)
    assert calls(inside) == [(FASTEST, "run"), (FASTEST, "transposed")]
    assert {each.batch for each in inside} == {(1,)}


def test_exports():
    cell = lj.LSTM(H)
    exported = jax.export.export(jax.jit(jax.grad(loss(cell))))(*types(cell))
    found = lj.inspect(exported.call, *types(cell))
    assert calls(found) == [("fused", "run"), ("fused", "transposed")]
    assert FASTEST == "fused" or all("an export" in str(each.why) for each in found)


@registry.needs_kernel
def test_the_docstring_shows_what_it_prints():
    (example,) = doctest.DocTestFinder().find(lj.inspect, globs={"jax": jax, "lj": lj})
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0
