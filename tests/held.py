"""A kernel of an accelerator, run on the CPU in some way, held to "fused"."""

import functools

import jax
import jax.numpy as jnp
import registry
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_device import flags, outcomes

import lstm_jax as lj

T, B, D, H = 5, 11, 2, 4


def check(name, cell, rng, dtype=jnp.float32, tol=2e-5, length=T, batch=B, scale=1, **options):
    """Values, gradients and tangents of implementation `name`. scale: of the parameters."""
    params = jax.tree.map(lambda w: w * scale, registry.random_params(cell, D, rng))
    shape = (length, batch, D) if batch else (length, D)
    params, xs = registry.cast((params, rng.standard_normal(shape)), dtype)
    seen, wanted = (
        jax.jit(functools.partial(outcomes, cell, each, options=options))(params, xs)
        for each in (name, "fused")
    )
    assert [x.dtype for x in jax.tree.leaves(seen)] == [x.dtype for x in jax.tree.leaves(wanted)]
    registry.assert_close(seen, wanted, tol)


def check_vmap(name, cell, rng, axes=(None, 0)):
    """A gradient with two batch axes under `vmap` over `axes` of (params, xs)."""
    params = registry.cast(registry.random_params(cell, D, rng), jnp.float32)
    xs = jnp.asarray(rng.standard_normal((4, T, 2, 3, D)), jnp.float32)
    if axes[0] == 0:
        params = jax.tree.map(lambda w: jnp.stack([w] * 4), params)

    def loss(params, xs, name):
        return jnp.sum(jnp.sin(lj.unroll(cell, params, xs, implementation=name)[1]))

    def gradient(name):
        each = jax.vmap(functools.partial(loss, name=name), in_axes=axes)
        return jax.jit(jax.grad(lambda p, x: jnp.sum(each(p, x)), (0, 1)))(params, xs)

    registry.assert_close(gradient(name), gradient("fused"), 2e-5)


def two_devices():
    auto, devices = (AxisType.Auto,), jax.devices()[:2]
    return jax.make_mesh((2,), ("data",), axis_types=auto, devices=devices)


def check_shard_map(name, rng, check_vma):
    """The batch is split over two devices; what JAX does not check, the caller sums."""
    cell, batch = lj.LSTM(H), 6
    params = registry.cast(registry.random_params(cell, D, rng), jnp.float32)
    data = {"xs": jnp.asarray(rng.standard_normal((T, batch, D)), jnp.float32)}
    data |= flags(batch=batch)

    def loss(params, data, name):
        final, ys = lj.unroll(cell, params, **data, implementation=name)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((final, ys)))

    def mapped(params, data):
        value, dparams = jax.value_and_grad(loss)(params, data, name)
        dparams = dparams if check_vma else jax.lax.psum(dparams, "data")
        return jax.lax.psum(value, "data"), dparams

    specs = {"mesh": two_devices(), "in_specs": (P(), P(None, "data")), "out_specs": P()}
    seen = jax.jit(jax.shard_map(mapped, **specs, check_vma=check_vma))(params, data)
    wanted = jax.jit(jax.value_and_grad(functools.partial(loss, name="fused")))(params, data)
    registry.assert_close(seen, wanted, 2e-5)
