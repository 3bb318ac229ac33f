"""W in the order in which the kernel's warps read it: each block's columns, by tiles.

rows of W       blocks, planes of x, own units       filled up with zeros
columns of W    planes of u, own units of one block  filled up with zeros
"""

import jax.numpy as jnp

from ...._typing import Array
from .plan import Plan


def packed(plan: Plan, w: Array, transposed: bool) -> Array:
    """Pack W [x_planes * U, m_planes * U], or its transpose, for the blocks of a plan."""
    problem, blocks = plan.problem, plan.blocks
    x, m, own = problem.x_planes, problem.m_planes, plan.own
    w = (w.T if transposed else w).reshape(x, problem.units, m, problem.units)
    more = (0, blocks * own - problem.units)
    w = jnp.pad(w, ((0, 0), more, (0, 0), more)).reshape(x, blocks, own, m, blocks, own)
    w = w.transpose(4, 1, 0, 2, 3, 5).reshape(blocks, blocks * x * own, m * own)
    w = jnp.pad(w, ((0, 0), (0, plan.depth - w.shape[1]), (0, plan.columns - w.shape[2])))
    dtype = (jnp.float32, jnp.bfloat16, jnp.float16)[problem.narrow]
    return (_by_fragments if problem.narrow else _by_columns)(w.astype(dtype))


def _by_columns(w: Array) -> Array:
    """[blocks, tiles of columns, rows / 4, column of 32, row of 4]."""
    blocks, depth, columns = w.shape
    return w.reshape(blocks, depth // 4, 4, columns // 32, 32).transpose(0, 3, 1, 4, 2)


def _by_fragments(w: Array) -> Array:
    """The operand a = W^T of mma.m16n8k16, as its lanes hold it (PTX ISA, "mma.m16n8k16")."""
    blocks, depth, columns = w.shape
    # row = 16 d + 8 r + 2 q + e,  column = 16 t + 8 c + g,  lane = 4 g + q,  word = 2 r + c
    w = w.reshape(blocks, depth // 16, 2, 4, 2, columns // 16, 2, 8)
    return w.transpose(0, 5, 1, 7, 3, 2, 6, 4)
