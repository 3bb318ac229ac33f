"""The Jacobian of one step with respect to the full carry, for any cell or net."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent, check_inputs, check_params, sizes_of
from .._checks import as_array, check_floating, fail, shown
from .._layers import Around, Bidirectional, Directions
from .._net import Net, check_net
from .._numerics import at_least_float32, common_dtype
from .._typing import Array, Carry, Params
from .._unroll import unroll

__all__ = ["carry_to_vector", "step_jacobian", "vector_to_carry"]
__dir__ = __all__.copy

Step = Callable[[Array, Array], Array]
"""A step (carry_{t-1}, x_t) -> carry_t, the carries as vectors [N]."""


def carry_to_vector(carry: Carry) -> Array:
    """Concatenate the leaves of a carry: (h, c) [*batch, H] each -> [*batch, N], N = 2H."""
    leaves = [as_array("carry", leaf) for leaf in jax.tree.leaves(carry)]
    if not leaves or any(leaf.ndim == 0 for leaf in leaves):
        remedy = "pass the result of cell.initial_carry, for example"
        raise fail("carry", shown(carry), "a carry of leaves [*batch, H]", remedy)
    dtype = common_dtype(*leaves)
    return jnp.concatenate([jnp.asarray(leaf, dtype) for leaf in leaves], axis=-1)


def vector_to_carry(vector: Array, like: Carry) -> Carry:
    """Split a vector [*batch, N] into a carry, the inverse of `carry_to_vector`.

    Args:
        vector: [*batch, N].
        like: a carry with any batch axes, for its structure, sizes and dtypes.

    Raises:
        ValueError: N is not the size of `like`.
    """
    vector = jnp.asarray(as_array("vector", vector))
    check_floating("vector", vector)
    leaves, tree = jax.tree.flatten(like)
    if not leaves or not all(getattr(leaf, "shape", ()) for leaf in leaves):
        raise fail(
            "like", shown(like), "a carry", "pass the result of cell.initial_carry, for example"
        )
    sizes = [leaf.shape[-1] for leaf in leaves]
    if vector.ndim == 0 or vector.shape[-1] != sum(sizes):
        wanted = f"[*batch, N] with N = {sum(sizes)}"
        raise fail("vector", f"shape {vector.shape}", wanted, "pass what carry_to_vector gives")
    parts, start = [], 0
    for leaf, size in zip(leaves, sizes, strict=True):
        parts.append(vector[..., start : start + size].astype(leaf.dtype))
        start += size
    return tree.unflatten(parts)


def step_jacobian(cell: Recurrent | Net, params: Params, carry: Carry, x: Array) -> Array:
    """Compute the step Jacobian J_t = d carry_t / d carry_{t-1}.

    J[i, j] = d (carry_t)_i / d (carry_{t-1})_j for the full carry, in the order of
    `carry_to_vector`; for an LSTM

        J_t = [[dh_t/dh_{t-1}, dh_t/dc_{t-1}],
               [dc_t/dh_{t-1}, dc_t/dc_{t-1}]]

    The carry of a net is that of all its layers, so the J_t of a stack is block triangular.

    Args:
        cell: any cell or net that is not bidirectional.
        params: as from `cell.init`.
        carry: the carry before the step, of one example: leaves [H]. `jax.vmap` over a batch.
        x: [D], the input of the step; a scalar integer for an `embedding`.

    Returns:
        [N, N], N the size of the carry, by N forward-mode derivatives.

    Raises:
        ValueError: x or the carry has batch axes, or a wrong size; a bidirectional net.
    """
    check_net("cell", cell, "step_jacobian(cell, params, carry, x)")
    check_one_direction(cell)
    x = check_inputs("x", x, "[D]" if cell.input_ndim else "[]", cell.input_ndim)
    params, xs, carry = fitted(cell, params, x[None], carry)
    vector, step = vector_step(cell, params, carry)
    return jax.jacfwd(step)(vector, xs[0])


def vector_step(cell: Recurrent | Net, params: Params, carry: Carry) -> tuple[Array, Step]:
    """Convert to vectors [N], in float32 or wider: the carry of one example, and the step on such.

    The arguments are those that `fitted` returns.
    """
    check_one_direction(cell)

    def step(vector: Array, x: Array) -> Array:
        return flat(cell.step(params, unflat(vector, carry), x)[0])

    return flat(carry), step


def flat(carry: Carry) -> Array:
    """Join all of a carry of one example to a vector [N], in float32 or wider.

    It is `carry_to_vector`, but for the leaves of a spatial cell, which have more axes than H.
    """
    leaves = jax.tree.leaves(carry)
    dtype = at_least_float32(common_dtype(*leaves))
    return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])


def unflat(vector: Array, like: Carry) -> Carry:
    """Split a vector [N] into a carry of the shapes and dtypes of `like`, the inverse of `flat`."""
    leaves, tree = jax.tree.flatten(like)
    parts, start = [], 0
    for leaf in leaves:
        part = vector[start : start + leaf.size]
        parts.append(part.reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return tree.unflatten(parts)


def for_each_direction(
    run: Callable[[Recurrent | Net, Params, Array, Carry], Any],
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    carry: Carry | None,
) -> Any:
    """Call run(net, params, xs, carry) for a cell or net; of a bidirectional net, for each half.

    The backward half runs over xs from the last step to the first. What is around the bidirectional
    net (a readout, an embedding) has no carry of its own.
    """
    return _for_each(run, cell, *fitted(cell, params, xs, carry))


def _for_each(run: Any, net: Any, params: Any, xs: Array, carry: Any) -> Any:
    while isinstance(net, Around):
        net, params, xs = net.inner, params["inner"], net.before(params, xs)
    if not isinstance(net, Bidirectional):
        return run(net, params, xs, carry)
    return Directions(
        _for_each(run, net.forward, params["forward"], xs, carry.forward),
        _for_each(run, net.backward, params["backward"], xs[::-1], carry.backward),
    )


def fitted(cell: Any, params: Any, xs: Any, carry: Any) -> tuple[Params, Array, Carry]:
    """Convert the arguments to arrays, the carry in its own dtypes; raise unless they fit.

    xs [T, D] is one example; the carry is `cell.initial_carry` if None.
    """
    check_net("cell", cell, "(cell, params, ...)")
    xs = check_inputs("xs", xs, "[T, D]" if cell.input_ndim else "[T]", 1 + cell.input_ndim)
    size, axes = sizes_of(cell, xs.shape)
    params = check_params(cell, params, size)
    if len(axes) > 1:
        seen = f"{len(axes) - 1} batch axes (shape {xs.shape})"
        raise fail("xs", seen, "one example, [T, D]", "jax.vmap over the batch")
    carry, _ = unroll(cell, params, xs[:0], carry)  # No step runs: this checks the carry.
    if not jax.tree.leaves(carry):
        raise fail("cell", "a net without a cell", "one that has a carry", "add a cell to it")
    return params, xs, carry


def check_one_direction(net: Any) -> None:
    """Raise if a net has bidirectional layers, whose carries do not follow from one another."""
    if isinstance(net, Bidirectional):
        remedy = "pass each layer by itself, with its own parameters and inputs"
        raise fail("cell", "a net with bidirectional layers", "a net of one direction", remedy)
    for part in net.parts.values() if isinstance(net, Net) else ():
        check_one_direction(part)


def pushed(step: Step, vector: Array, frame: Array, x: Array) -> tuple[Array, Array]:
    """Compute (carry_t, J_t f for each row f of `frame` [k, N]), by k jvps without a dense J_t."""
    vector, linear = jax.linearize(lambda v: step(v, x), vector)
    return vector, jax.vmap(linear)(frame)
