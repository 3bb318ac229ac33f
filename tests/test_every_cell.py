"""Every promise, for every cell and wrapper, in few compilations.

The files beside this one test each promise at length on the classic cells, and on all others where
`-m slow` runs them. Here one compiled function per cell, implementation and direction answers for
the semantics of padding, restarts and noise, and one per mode for its derivatives. The oracle is
the plain scan; what the plain scan is held to are single steps and central differences. What needs
more than the default and the plain scan, forwards, belongs to the grid.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax as lj

T, B, D, H = 6, 3, 2, 4
REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
TRAINED = 7
"""The seed of the key that means training."""


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


class Point(NamedTuple):
    """The arguments at which `unroll` is evaluated and differentiated."""

    params: Any
    xs: Any  # [T, B, D]
    carry: Any


class Flags(NamedTuple):
    """Gaps, an episode that ends, and a sequence of length 0."""

    mask: Any
    resets: Any


def flags(rng):
    mask, resets = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    mask[:, -1] = resets[:, -1] = False
    return Flags(mask, resets)


def point(case, rng):
    cell = case.make(H)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, (B,), rng)
    space = getattr(cell, "input_shape", ())
    return Point(params, rng.standard_normal((T, B, *space, D)), carry)


def at_valid(mask, xs, other):
    """xs where a step is valid, `other` elsewhere."""
    return np.where(mask.reshape(mask.shape + (1,) * (np.ndim(xs) - 2)), xs, other)


def unrolled(case, implementation, reverse, point, flags, training, **options):
    """(final carry, ys) of a point."""
    key = jax.random.key(TRAINED) if training else None
    # A mask for each sequence is no kernel's.
    implementation = registry.asked(implementation) if training else implementation
    options = {"implementation": implementation, "reverse": reverse, "key": key, **options}
    return lj.unroll(case.make(H), *point, **flags._asdict(), **options)


def loss(outs):
    """A sum of sines with weights that differ everywhere."""
    total = jnp.zeros(())
    for n, leaf in enumerate(jax.tree.leaves(outs)):
        weights = jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype) + n).reshape(leaf.shape)
        total += jnp.sum(weights * jnp.sin(leaf))
    return total


@functools.lru_cache
def compiled(case, implementation, reverse=False, training=False, remat=None):
    """Jitted: (point, flags) -> ((final carry, ys), gradient of the loss)."""

    def run(point, flags):
        outs = unrolled(case, implementation, reverse, point, flags, training, remat=remat)
        return loss(outs), outs

    def both(point, flags):
        gradient, outs = jax.grad(run, has_aux=True)(point, flags)
        return outs, gradient

    return jax.jit(both)


def gradient(case, point, flags):
    """That of the loss, by the default implementation."""
    return compiled(case, case.default)(point, flags)[1]


def moved(point, direction, eps):
    """point + eps * direction"""
    return jax.tree.map(lambda a, v: a + eps * v, point, direction)


def two_ways(net):
    """Whether a net needs the future."""
    parts = net.parts.values() if isinstance(net, lj.Net) else ()
    return type(net).__name__ == "Bidirectional" or any(map(two_ways, parts))


# ---- semantics -----------------------------------------------------------------------------------
@pytest.mark.grid
@REVERSE
@registry.cells(dear=True, every=True)
def test_the_reference_is_single_steps(case, reverse, rng):
    """Each sequence alone, by `cell.step`, skipping what is not valid, beginning anew at resets."""
    p, f = point(case, rng), flags(rng)
    cell = case.make(H)
    if two_ways(cell):
        with pytest.raises(ValueError, match="unroll it over whole sequences"):
            cell.step(p.params, p.carry, p.xs[0])
        return
    (final, ys), _ = compiled(case, "scan", reverse)(p, f)
    step, start = jax.jit(cell.step), cell.initial_carry(p.params)
    restart = np.append(f.resets[1:], np.zeros((1, B), bool), axis=0) if reverse else f.resets
    for b in range(B):
        carry = jax.tree.map(lambda leaf, b=b: jnp.asarray(leaf[b]), p.carry)
        wanted = np.zeros((T, *ys.shape[2:]))
        for t in range(T)[::-1] if reverse else range(T):
            carry = start if restart[t, b] else carry
            if f.mask[t, b]:
                carry, wanted[t] = step(p.params, carry, p.xs[t, b])
        registry.assert_close(ys[:, b], wanted, 1e-12)
        registry.assert_close(jax.tree.map(lambda leaf, b=b: leaf[b], final), carry, 1e-12)


@registry.cells(dear=True, every=True)
def test_the_reference_has_the_gradient_of_central_differences(case, rng):
    p, f = point(case, rng), flags(rng)
    run = compiled(case, "scan")
    direction = jax.tree.map(np.multiply, p, registry.normal(p, rng))
    eps = 1e-5 if case.smooth else 1e-8
    tol = 1e-6 if case.smooth else 1e-4
    ahead, behind = (float(loss(run(moved(p, direction, e), f)[0])) for e in (eps, -eps))
    near = pytest.approx((ahead - behind) / (2 * eps), rel=tol, abs=tol)
    assert (registry.directional(run(p, f)[1], direction) == near) == (not case.biased)


@registry.cells(every=True)
def test_the_default_agrees_with_the_reference(case, rng):
    """Values and gradients, with gaps, restarts and length 0."""
    p, f = point(case, rng), flags(rng)
    wanted = compiled(case, "scan")(p, f)
    registry.assert_close(compiled(case, case.default)(p, f), wanted, 1e-10)


@pytest.mark.grid
@registry.cells(dear=True, every=True)
def test_every_implementation_agrees_with_the_reference(case, rng):
    """And in both directions, and rematerialised."""
    p, f = point(case, rng), flags(rng)
    for implementation in case.sampled:
        for reverse in (False, True):
            wanted = compiled(case, "scan", reverse)(p, f)
            registry.assert_close(compiled(case, implementation, reverse)(p, f), wanted, 1e-10)
    wanted = compiled(case, "scan")(p, f)
    registry.assert_close(compiled(case, case.default, remat=4)(p, f), wanted, 1e-10)


@registry.grid(dear=True, every=True)
def test_nothing_comes_from_padding(case, implementation, rng):
    """NaN and Inf there change no bit of values or gradients, whose padding is zero."""
    p, f = point(case, rng), flags(rng)
    spoiled = p._replace(xs=at_valid(f.mask, p.xs, rng.choice([np.nan, np.inf])))
    (final, ys), gradient = compiled(case, implementation)(spoiled, f)
    registry.assert_close(((final, ys), gradient), compiled(case, implementation)(p, f), 0)
    assert not np.any(at_valid(~f.mask, ys, 0))
    assert not np.any(at_valid(~f.mask, gradient.xs, 0))
    registry.assert_close(
        jax.tree.map(lambda a: a[-1], final), jax.tree.map(lambda a: a[-1], p.carry), 0
    )


@pytest.mark.grid
@registry.cells(dear=True, every=True)
def test_training_draws_from_the_key_alone(case, rng):
    """The same noise for every implementation and chunk; and none in a cell that draws none."""
    p, f = point(case, rng), flags(rng)
    calm = compiled(case, "scan")(p, f)[0]
    if not case.noisy:
        run = jax.jit(lambda p: unrolled(case, case.default, False, p, f, training=True))
        registry.assert_close(run(p), calm, 1e-10)
        return
    wanted = compiled(case, "scan", training=True)(p, f)
    for implementation in case.sampled:
        seen = compiled(case, implementation, training=True)(p, f)
        registry.assert_close(seen, wanted, 1e-10)
    seen = compiled(case, case.default, training=True, remat=4)(p, f)
    registry.assert_close(seen, wanted, 1e-10)
    assert not np.allclose(wanted[0][1], calm[1])


# ---- modes, on the default -----------------------------------------------------------------------
def value(case):
    """(point, flags) -> loss."""
    return lambda p, f: loss(unrolled(case, None, False, p, f, training=False))


@pytest.mark.grid
@registry.cells(dear=True, every=True)
def test_forward_mode_and_second_derivatives(case, rng):
    """The jvp is the gradient's; both second derivatives, the central difference of gradients."""
    p, f = point(case, rng), flags(rng)
    v, run = registry.normal(p, rng), value(case)

    def slope(p):
        return jax.jvp(lambda q: run(q, f), (p,), (v,))[1]

    def modes(p):
        forward_over_reverse = jax.jvp(jax.grad(lambda q: run(q, f)), (p,), (v,))[1]
        return slope(p), jax.grad(slope)(p), forward_over_reverse

    slope_, *second = jax.jit(modes)(p)
    near = pytest.approx(registry.directional(gradient(case, p, f), v), rel=1e-9, abs=1e-9)
    assert (float(slope_) == near) == (not case.biased)
    if case.biased:  # Its reverse mode is no derivative, on purpose: nor is what is made of it.
        return
    eps = 1e-6
    ahead, behind = (gradient(case, moved(p, v, e), f) for e in (eps, -eps))
    wanted = jax.tree.map(lambda a, b: (a - b) / (2 * eps), ahead, behind)
    for seen in second:
        registry.assert_close(seen, wanted, 1e-6)
    registry.assert_close(*second, 1e-9)


@pytest.mark.grid
@registry.cells(dear=True, every=True)
def test_vmap_over_parameters_and_inputs(case, rng):
    """The gradient of each of two networks at its own inputs, side by side."""
    f = flags(rng)
    points = [point(case, rng), point(case, rng)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    seen = jax.jit(jax.vmap(jax.grad(value(case)), in_axes=(0, None)))(stacked, f)
    for n, p in enumerate(points):
        alone = jax.tree.map(lambda a, n=n: a[n], seen)
        registry.assert_close(alone, gradient(case, p, f), 1e-10)


@pytest.mark.grid
@registry.grid(dear=True, every=True)
def test_bfloat16(case, implementation, rng):
    """Parameters and inputs in bfloat16: finite, outputs in bfloat16, c at least float32."""
    p, f = point(case, rng), flags(rng)
    half = registry.cast((p.params, p.xs), jnp.bfloat16)
    run = jax.jit(lambda p, x: unrolled(case, implementation, False, (p, x), f, training=True))
    final, ys = run(*half)
    assert ys.dtype == jnp.bfloat16
    final = jax.tree.leaves(final)
    assert all(leaf.dtype == jnp.float32 for leaf in final)
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float32))) for leaf in (*final, ys))
