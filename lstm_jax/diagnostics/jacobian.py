"""The Jacobian of one step with respect to the full carry, for any cell."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent, check_cell, check_inputs, check_params
from .._checks import as_array, check_floating, fail, shown
from .._numerics import common_dtype
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


def step_jacobian(cell: Recurrent, params: Params, carry: Carry, x: Array) -> Array:
    """Compute the step Jacobian J_t = d carry_t / d carry_{t-1}.

    J[i, j] = d (carry_t)_i / d (carry_{t-1})_j for the full carry, in the order of
    `carry_to_vector`; for an LSTM

        J_t = [[dh_t/dh_{t-1}, dh_t/dc_{t-1}],
               [dc_t/dh_{t-1}, dc_t/dc_{t-1}]]

    Args:
        cell: any cell.
        params: as from `cell.init`.
        carry: the carry before the step, of one example: leaves [H]. `jax.vmap` over a batch.
        x: [D], the input of the step.

    Returns:
        [N, N], N the size of the carry, by N forward-mode derivatives.

    Raises:
        ValueError: x or the carry has batch axes, or a wrong size.
    """
    check_cell(cell, "a step Jacobian")
    x = check_inputs("x", x, "[D]", cell.input_ndim)
    vector, step = vector_step(cell, params, x[None], carry)
    return jax.jacfwd(step)(vector, x)


def vector_step(
    cell: Recurrent, params: Params, xs: Array, carry: Carry | None
) -> tuple[Array, Step]:
    """Convert to vectors [N]: the cell's carry before xs [T, D], and its step on such vectors."""
    check_cell(cell, "a Jacobian of the carry")
    xs = check_inputs("xs", xs, "[T, D]", 1 + cell.input_ndim)
    params = check_params(cell, params, xs.shape[-1])
    if xs.ndim != 1 + cell.input_ndim:
        seen = f"{xs.ndim - 1 - cell.input_ndim} batch axes (shape {xs.shape})"
        raise fail("xs", seen, "one example, [T, D]", "jax.vmap over the batch")
    like, _ = unroll(cell, params, xs[:0], carry)  # No step runs: this checks the carry.

    def step(vector: Array, x: Array) -> Array:
        new, _ = cell.step(params, vector_to_carry(vector, like), x)
        return carry_to_vector(new).astype(vector.dtype)

    return carry_to_vector(like), step


def pushed(step: Step, vector: Array, frame: Array, x: Array) -> tuple[Array, Array]:
    """Compute (carry_t, J_t f for each row f of `frame` [k, N]), by k jvps without a dense J_t."""
    vector, linear = jax.linearize(lambda v: step(v, x), vector)
    return vector, jax.vmap(linear)(frame)


def log_abs(x: Array) -> Array:
    """Compute ln|x|; an exact zero counts as the smallest normal number of the dtype."""
    return jnp.log(jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny))
