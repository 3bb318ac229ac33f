"""The tangent recur(dW, r_t) for all t at once; its transpose is the gradient of W."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax

from ..._typing import Array, Carry, Params
from ..jaxprs import Untranslatable
from ..matrix import Form, form, matrix
from ..products import product, serves
from ..spec import Recurrence


def by_recur(recurrence: Recurrence, weights: Params, carries: Carry, dweights: Params) -> Array:
    """Compute recur(dW, r_t) as a jvp of `recur`. carries: r_t, leaves [T, *batch, ...]."""

    def recur_all(weights: Params) -> Array:
        return jax.vmap(recurrence.recur, in_axes=(None, 0))(weights, carries)

    return jax.jvp(recur_all, (weights,), (dweights,))[1]


def by_products(recurrence: Recurrence, weights: Params, carries: Carry, dweights: Params) -> Array:
    """Compute recur(dW, r_t) as one `product` a member; by `by_recur` if there is no matrix."""
    alone = dataclasses.replace(recurrence, members=())
    function: Callable[..., Array] = partial(_of_one, alone)
    for each in recurrence.members:
        own = 0 if each.weights else None
        function = jax.vmap(function, in_axes=(own, 1, own), out_axes=1)
    return function(weights, carries, dweights)


def _of_one(recurrence: Recurrence, weights: Params, carries: Carry, dweights: Params) -> Array:
    """Compute `by_products` for a recurrence without members."""
    types = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), carries)
    try:
        of = form(recurrence.cell, weights, types)
    except Untranslatable:
        return by_recur(recurrence, weights, carries, dweights)
    dw = _matrix_tangent(recurrence, of, weights, types, dweights)
    if dw is None:
        return by_recur(recurrence, weights, carries, dweights)
    h = jax.tree.leaves(carries)[0]
    h = (h if of.rounded is None else h.astype(of.rounded)).astype(dw.dtype)
    if not serves(h, dw, of.u.dtype):
        return by_recur(recurrence, weights, carries, dweights)
    return product(h, dw).astype(of.u.dtype)


def _matrix_tangent(
    recurrence: Recurrence, of: Form, weights: Params, carry: Carry, dweights: Params
) -> Array | None:
    """Tangent of the recurrent matrix; None if that is larger than the weights (block-diagonal)."""
    if of.leaf is not None:
        return jax.tree.leaves(dweights)[of.leaf]
    (size,) = of.u.shape if of.u.ndim == 1 else (0,)
    elements = jax.tree.leaves(carry)[0].shape[-1] * size
    if not elements or elements > sum(leaf.size for leaf in jax.tree.leaves(weights)):
        return None

    def of_weights(weights: Params) -> Array:
        made = matrix(recurrence.cell, of, weights, carry)
        assert made is not None  # None only if u had no elements.
        return made

    return jax.jvp(of_weights, (weights,), (dweights,))[1]
