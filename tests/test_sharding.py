"""Eight devices are one: shard_map, automatic and explicit axis types, export.

The batch is split over the devices and the parameters are replicated; values and gradients are
those of one device.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lowered import operations

import lstm_jax as lj

pytestmark = pytest.mark.sampled

T, B, D, H = 5, 8, 2, 3
NAMES = ["rnn_tanh", "lstm", "gru", "gru_reset_before", "user_update"]
plain_or_flagged = pytest.mark.parametrize("flagged", [False, True], ids=["plain", "flags"])


def problem(case):
    """(params, data): data is a dict of what is split, each with its batch axis second or first."""
    rng, cell = np.random.default_rng(0), case.make(H)
    params = registry.random_params(cell, D, rng)
    data = {
        "xs": rng.standard_normal((T, B, D)).astype(np.float32),
        "carry": registry.cast(registry.random_carry(cell, params, (B,), rng), jnp.float32),
        "seq_lengths": np.arange(B, dtype=np.int32) % (T + 1),
        "resets": rng.random((T, B)) < 0.3,
    }
    return registry.cast(params, jnp.float32), data


def split_along(name):
    """The partition of one entry of the data."""
    return P(None, "data") if name in ("xs", "resets") else P("data")


def specs(data):
    return {name: split_along(name) for name in data}


def problems(case, flagged):
    params, data = problem(case)
    return params, data if flagged else {name: data[name] for name in ("xs", "carry")}


def fewer(data, steps, batch):
    """The first steps of the first sequences."""
    parts = {
        n: x[:steps, :batch]
        if n in ("xs", "resets")
        else jax.tree.map(lambda leaf: leaf[:batch], x)
        for n, x in data.items()
    }
    if "seq_lengths" in parts:
        parts["seq_lengths"] = np.minimum(parts["seq_lengths"], steps)
    return parts


def loss(case, implementation, params, data, **options):
    outs = lj.unroll(case.make(H), params, **data, implementation=implementation, **options)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs))


def gradient(case, implementation, **options):
    """(params, data) -> (loss, gradients of the parameters, the inputs and the carry)."""

    def run(params, data):
        fixed = {name: data[name] for name in data if name not in ("xs", "carry")}

        def of(params, xs, carry):
            given = {"xs": xs, "carry": carry, **fixed}
            return loss(case, implementation, params, given, **options)

        return jax.value_and_grad(of, argnums=(0, 1, 2))(params, data["xs"], data["carry"])

    return run


@functools.lru_cache
def alone(case, flagged, *sizes):
    """Of one device, by plain "scan"; of the first steps and sequences if `sizes` says so."""
    params, data = problems(case, flagged)
    return jax.jit(gradient(case, "scan"))(params, fewer(data, *sizes) if sizes else data)


def mesh(axis_type):
    return jax.make_mesh((8,), ("data",), axis_types=(axis_type,))


def assert_same(seen, wanted):
    registry.assert_close(seen, wanted, 1e-5)


# ---- shard_map -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("check_vma", "flagged"),
    [(True, False), (True, True), (False, True)],
    ids=["checked", "checked-flags", "unchecked-flags"],
)
@registry.grid(NAMES)
def test_shard_map(case, implementation, check_vma, flagged):
    """Checked, the gradient of what is replicated is summed by JAX; unchecked, by the caller."""
    params, data = problems(case, flagged)

    def run(params, data):
        value, (dparams, *others) = gradient(case, implementation)(params, data)
        if not check_vma:
            dparams = jax.lax.psum(dparams, "data")
        return jax.lax.psum(value, "data"), (dparams, *others)

    out_specs = (P(), (P(), split_along("xs"), split_along("carry")))
    options = {"mesh": mesh(AxisType.Auto), "in_specs": (P(), specs(data)), "out_specs": out_specs}
    seen = jax.jit(jax.shard_map(run, **options, check_vma=check_vma))(params, data)
    assert_same(seen, alone(case, flagged))


@registry.grid(["lstm", "gru", "user_update"])
def test_shard_map_sums_over_the_devices_after_the_loop(case, implementation):
    """Plain autodiff sums the gradient of a weight at every step; fused, once for each."""
    params, data = problems(case, True)

    def run(params, data):
        return gradient(case, implementation)(params, data)[1][0]

    options = {"mesh": mesh(AxisType.Auto), "in_specs": (P(), specs(data)), "out_specs": P()}
    lowered = jax.jit(jax.shard_map(run, **options)).lower(params, data)
    inside = [inside for _, inside in operations(lowered, "stablehlo.all_reduce")]
    assert len(inside) >= len(params)
    assert any(inside) == (implementation == "scan")


@pytest.mark.parametrize("remat", ["sqrt", "minimal"])
@registry.grid(["lstm", "user_update"])
def test_shard_map_with_remat(case, implementation, remat):
    params, data = problems(case, True)

    def run(params, data):
        value, grads = gradient(case, implementation, remat=remat, reverse=False)(params, data)
        return jax.lax.psum(value, "data"), grads

    out_specs = (P(), (P(), split_along("xs"), split_along("carry")))
    options = {"mesh": mesh(AxisType.Auto), "in_specs": (P(), specs(data)), "out_specs": out_specs}
    assert_same(jax.jit(jax.shard_map(run, **options))(params, data), alone(case, True))


@registry.grid(["lstm", "user_update"])
def test_shard_map_begins_where_the_library_begins(case, implementation):
    """No carry given: the start is made inside, and varies over the devices as the inputs do."""
    params, data = problems(case, False)

    def total(params, xs):
        carry, ys = lj.unroll(case.make(H), params, xs, implementation=implementation)
        return jnp.sum(ys**2) + sum(jnp.sum(leaf**2) for leaf in carry)

    def run(params, xs):
        value, grads = jax.value_and_grad(total)(params, xs)
        return jax.lax.psum(value, "data"), grads

    options = {"mesh": mesh(AxisType.Auto), "in_specs": (P(), P(None, "data")), "out_specs": P()}
    seen = jax.jit(jax.shard_map(run, **options))(params, data["xs"])
    assert_same(seen, jax.jit(jax.value_and_grad(total))(params, data["xs"]))


# ---- NamedSharding -------------------------------------------------------------------------------
def placed(mesh, params, data):
    replicated = jax.device_put(params, NamedSharding(mesh, P()))
    split = {n: jax.device_put(x, NamedSharding(mesh, split_along(n))) for n, x in data.items()}
    return replicated, split


@pytest.mark.parametrize(
    ("axis_type", "flagged"),
    [(AxisType.Auto, True), (AxisType.Explicit, False), (AxisType.Explicit, True)],
    ids=["auto-flags", "explicit", "explicit-flags"],
)
@registry.grid(NAMES)
def test_jit_with_named_sharding(case, implementation, axis_type, flagged):
    over = mesh(axis_type)
    with jax.set_mesh(over):
        args = placed(over, *problems(case, flagged))
        value, (dparams, dxs, dcarry) = jax.jit(gradient(case, registry.asked(implementation)))(
            *args
        )
    assert_same((value, (dparams, dxs, dcarry)), alone(case, flagged))
    assert dxs.sharding.is_equivalent_to(NamedSharding(over, split_along("xs")), dxs.ndim)


@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto, None], ids=str)
def test_dense_layers_and_functions_between_cells(axis_type):
    """By types, by the compiler, and inside `shard_map`."""
    case = registry.NETS["functions"]
    run, (params, data) = gradient(case, "fused"), problem(case)
    if axis_type is None:
        out_specs = P(), (P(), split_along("xs"), split_along("carry"))
        options = {"mesh": mesh(AxisType.Auto), "in_specs": (P(), specs(data))}

        def summed(params, data):
            value, grads = run(params, data)
            return jax.lax.psum(value, "data"), grads

        seen = jax.jit(jax.shard_map(summed, **options, out_specs=out_specs))(params, data)
    else:
        over = mesh(axis_type)
        with jax.set_mesh(over):
            seen = jax.jit(run)(*placed(over, params, data))
    assert_same(seen, alone(case, True))


@pytest.mark.parametrize("options", [{"remat": "sqrt"}, {"time_major": False}], ids=str)
@registry.grid(["lstm", "user_update"])
def test_explicit_axes_with_other_options(case, implementation, options):
    """Every array's type says how it is split, so a reshape or a transpose may refuse."""
    over = mesh(AxisType.Explicit)
    params, data = problems(case, True)
    if "time_major" in options:
        data = data | {n: data[n].swapaxes(0, 1) for n in ("xs", "resets")}
    with jax.set_mesh(over):
        where = P("data") if "time_major" in options else None
        split = {
            n: jax.device_put(x, NamedSharding(over, where or split_along(n)))
            for n, x in data.items()
        }
        run = gradient(case, registry.asked(implementation), **options)
        value, (dparams, dxs, dcarry) = jax.jit(run)(params, split)
    dxs = dxs.swapaxes(0, 1) if "time_major" in options else dxs
    assert_same((value, (dparams, dxs, dcarry)), alone(case, True))


# ---- export --------------------------------------------------------------------------------------
def symbolic(params, data):
    """The same types with T and B unknown."""
    steps, batch = jax.export.symbolic_shape("T, B")

    def of(name, leaf):
        known = leaf.shape[2:] if name in ("xs", "resets") else leaf.shape[1:]
        unknown = (steps, batch) if name in ("xs", "resets") else (batch,)
        return jax.ShapeDtypeStruct((*unknown, *known), leaf.dtype)

    types = {n: jax.tree.map(functools.partial(of, n), x) for n, x in data.items()}
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params), types


@plain_or_flagged
@registry.grid(NAMES)
def test_export_with_symbolic_steps_and_batch(case, implementation, flagged):
    """Values and gradients, exported once, at two sizes."""
    params, data = problems(case, flagged)
    run = jax.jit(gradient(case, registry.asked(implementation)))
    exported = jax.export.export(run)(*symbolic(params, data))
    assert_same(exported.call(params, data), alone(case, flagged))
    assert_same(exported.call(params, fewer(data, 2, 3)), alone(case, flagged, 2, 3))


@registry.cells(["rnn_tanh", "lstm", "gru"])
def test_an_export_survives_as_bytes(case):
    pytest.importorskip("flatbuffers", reason="jax.export writes bytes with it")
    params, data = problems(case, True)
    exported = jax.export.export(jax.jit(gradient(case, None)), platforms=("cpu", "cuda", "tpu"))
    restored = jax.export.deserialize(exported(*symbolic(params, data)).serialize())
    assert_same(restored.call(params, data), alone(case, True))
