"""A loop over time as one kernel: `lax.scan` with its state in VMEM.

The grid of the kernel has two axes: blocks of sequences, and blocks of time steps, which run one
after the other. Pallas loads the next block and writes the last while one is computed. Matrices
and parameters stay in VMEM, and so does the state: it is a block of the results that does not move.

Where T is no multiple of the block, the last block has fewer steps. Where B is none, rows are
added that repeat the last sequence; they add nothing to sums, as their cotangents are zero.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...jaxprs import Untranslatable
from . import blocks, contacts, inlined
from .operands import Inputs, Leaf, Now, Operand, Place, leaves_of, operand, two_axes

Step = Callable[[Inputs, Any], tuple[Any, Any, Any]]
"""(inputs of one step, state) -> (state, summands, outputs)."""


def loop(
    step: Step, given: Inputs, state: Any, *, reverse: bool, back: bool = False
) -> tuple[Any, Any, Any]:
    """Run `step` for all t in the order of the sequence, or with `back` against it.

    Args:
        state: leaves [B, ...] of float32.
        reverse: True if the sequence runs from T - 1 to 0.

    Returns:
        (the last state, the sums of the summands over all steps, the outputs of all steps).

    Raises:
        Untranslatable: the step cannot run in a kernel; the message is one line that says why.
    """
    batch, length = _sizes(given, state)
    traced = _trace(step, given, state, batch)
    plan = blocks.plan(length, batch, *_memory(traced), jax.tree.leaves(state)[0].shape[-1])
    if plan.rows != batch:
        traced = _trace(step, given, state, plan.rows)
    place = Place(batch, length, plan.rows, plan.steps, reverse, back)
    return _call(traced, place, state, plan.memory)


def _sizes(given: Inputs, state: Any) -> tuple[int, int]:
    """Return (B, T)."""
    leaves = jax.tree.leaves(state)
    if not all(leaf.size for leaf in leaves):
        raise Untranslatable("its carry has a leaf without elements")
    timed = jax.tree.leaves((given.timed, given.cotangents, given.flags))
    return leaves[0].shape[0], timed[0].shape[0]


# ---- the step ------------------------------------------------------------------------------------
class _Traced(NamedTuple):
    """A step, traced for a number of sequences.

    Attributes:
        closed: its jaxpr; the arguments are the operands with elements, then the state.
        used: flags of these operands.
        leaves: the operands in use, after the constants.
        state, summands, outputs: shapes and dtypes of the results, as trees.
    """

    closed: Any
    used: list[bool]
    leaves: list[Leaf]
    state: Any
    summands: Any
    outputs: Any


def _trace(step: Step, given: Inputs, state: Any, rows: int) -> _Traced:
    """Trace `step` for `rows` sequences."""
    leaves, structure = leaves_of(given)
    kinds = [leaf.in_step(rows) for leaf in leaves]
    like, tree = jax.tree.flatten(state)

    def flat(*values: Any) -> Any:
        rest = iter(values)
        full = [next(rest) if kind.size else jnp.zeros(kind.shape, kind.dtype) for kind in kinds]
        return step(structure.unflatten(full), tree.unflatten(rest))

    types = [kind for kind in kinds if kind.size]
    types += [jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for x in like]
    closed, results = inlined.traced(flat, *types)
    used = inlined.used(closed)[: -len(like)]
    there = [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind.size]
    kept = [leaf for leaf, flag in zip(there, used, strict=True) if flag]
    constants = [Leaf("shared", jnp.asarray(each)) for each in closed.consts]
    return _Traced(closed, used, [*constants, *kept], *results)


def _memory(traced: _Traced) -> tuple[int, list[Any], list[Any]]:
    """Bytes in VMEM all the time; (n, dtype) of arrays [B, n] and of arrays [T, B, n]."""
    shared, rows, timed = 0, [], []
    for leaf in traced.leaves:
        if leaf.kind == "shared":
            shared += blocks.padded(two_axes(leaf.array.shape), leaf.array.dtype)
        elif leaf.kind in ("timed", "cotangents"):
            timed.append(_columns(leaf.in_step(1)))
        else:
            rows.append(_columns(leaf.in_step(1)))
        if leaf.stacked is not None:
            timed.append(_columns(leaf.in_step(1)))
    for each in jax.tree.leaves(traced.summands):
        shared += 2 * blocks.padded(two_axes(each.shape), each.dtype)
    rows += 2 * [_columns(each) for each in jax.tree.leaves(traced.state)]
    timed += [_columns(each) for each in jax.tree.leaves(traced.outputs)]
    return shared, rows, timed


def _columns(kind: Any) -> tuple[int, Any]:
    """(n, dtype) of an array [B, ...] as a matrix [B, n]."""
    return kind.size // kind.shape[0], kind.dtype


# ---- the kernel ----------------------------------------------------------------------------------
def _call(traced: _Traced, place: Place, state: Any, memory: int) -> tuple[Any, Any, Any]:
    """Call the kernel; give its results the shapes that the caller knows."""
    operands = [operand(leaf, place) for leaf in traced.leaves]
    first = [operand(Leaf("state", leaf), place) for leaf in jax.tree.leaves(state)]
    results = _Results(traced, place)
    given = [*operands, *first]
    made = contacts.call(
        _kernel(traced, place, operands, results),
        [kind for kind, _ in results.blocks],
        place.grid,
        [block for each in given for block in each.blocks],
        [block for _, block in results.blocks],
        memory,
        _about(place),
    )(*[array for each in given for array in each.arrays])
    return results.shaped(made)


def _about(place: Place) -> dict[str, str]:
    """What the kernel's schedule does not tell: how often a full block runs its loops in the text.

    A loop of known length is none if it has one iteration.
    """
    known = not place.length % place.steps
    trips = [str(trips) for _, trips in _loops(place.steps, known) if trips > 1 or not known]
    sizes = {"blocks": str(place.grid[0]), "steps": str(place.steps)}
    return sizes | {"trips": ",".join(trips)}


class _Results:
    """Results of the kernel: the state, sums of the summands, and outputs, of those with elements.

    Attributes:
        blocks: (type, block) of each.
    """

    def __init__(self, traced: _Traced, place: Place):
        self.place, self.trees = place, (traced.state, traced.summands, traced.outputs)
        self.kinds = [jax.tree.leaves(tree) for tree in self.trees]
        of_each = (
            lambda x: place.of_rows(*_columns(x)),
            lambda x: place.of_sums(two_axes(x.shape), x.dtype),
            lambda x: place.of_steps(*_columns(x)),
        )
        both = zip(of_each, self.kinds, strict=True)
        self.blocks = [of(kind) for of, kinds in both for kind in kinds if kind.size]

    def split(self, values: Sequence[Any]) -> list[list[Any]]:
        """Split results with elements into those of the state, sums, and outputs."""
        rest = iter(values)
        return [[next(rest) for kind in kinds if kind.size] for kinds in self.kinds]

    def shaped(self, made: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Undo what the kernel needs: added rows, merged axes, sums for each block."""
        batch, length = self.place.batch, self.place.length
        undo = (
            lambda x, kind: x[:batch].reshape(batch, *kind.shape[1:]),
            lambda x, kind: x.sum(0).reshape(kind.shape),
            lambda x, kind: x[:, :batch].reshape(length, batch, *kind.shape[1:]),
        )
        empty = ((batch,), (), (length, batch))
        done = []
        for tree, kinds, values, of, lead in zip(
            self.trees, self.kinds, self.split(made), undo, empty, strict=True
        ):
            rest = iter(values)
            tails = [kind.shape[1:] if lead else kind.shape for kind in kinds]
            done.append(
                jax.tree.structure(tree).unflatten(
                    of(next(rest), kind) if kind.size else jnp.zeros((*lead, *tail), kind.dtype)
                    for kind, tail in zip(kinds, tails, strict=True)
                )
            )
        return tuple(done)


def _kernel(
    traced: _Traced, place: Place, operands: Sequence[Operand], results: _Results
) -> Callable[..., None]:
    """Make the kernel: a function of references to operands, first state and results."""
    shapes = [kind.shape for kind in jax.tree.leaves(traced.state)]
    count_given = sum(len(each.arrays) for each in operands)

    def kernel(*refs: Any) -> None:
        given, rest = refs[:count_given], refs[count_given:]
        first, made = rest[: len(shapes)], rest[len(shapes) :]
        state, sums, outputs = results.split(made)

        k = contacts.place(1)  # The interpreter knows it outside of loops only.
        now = place.now(k)

        @contacts.when(k == 0)
        def _():
            for ref, source in zip(state, first, strict=True):
                ref[...] = source[...]
            for ref in sums:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        def step(s: Any) -> None:
            t = now.count - 1 - s if place.down else s
            carry = [ref[...].reshape(shape) for ref, shape in zip(state, shapes, strict=True)]
            new = iter(_evaluated(traced, operands, given, carry, t, now))
            for ref in state:
                ref[...] = next(new).reshape(ref.shape)
            for ref in sums:
                ref[...] += next(new).reshape(ref.shape)
            for ref in outputs:
                ref[t] = next(new).reshape(ref.shape[1:])

        _repeat(step, now.count, place.steps)

    return kernel


def _loops(steps: int, known: bool) -> list[tuple[int, int]]:
    """(steps in an iteration, iterations) of the loops over a block of `steps`.

    known: False if a block may have fewer steps.
    """
    size = blocks.ROUND if steps >= blocks.ROUND else 1
    more = size > 1 and not (known and steps % size == 0)
    return [(size, steps // size), *([(1, steps % size)] if more else [])]


def _repeat(step: Callable[[Any], None], count: Any, most: int) -> None:
    """Call `step` for 0 .. count - 1, several in a round, whose instructions then overlap.

    count: a number that is known, or one of at most `most`.
    """
    known, done = isinstance(count, np.integer), np.int32(0)
    for size, _ in _loops(most, known):
        left = count - done
        # With "//", Pallas would ask what TPU is at hand.
        rounds = left // np.int32(size) if known else lax.div(left, np.int32(size))
        _in_rounds(step, done, size, rounds)
        done = rounds * size


def _in_rounds(step: Callable[[Any], None], first: Any, size: int, rounds: Any) -> None:
    """Call `step` for `rounds * size` numbers from `first`."""

    def some(n: Any, _: Any) -> Any:
        for s in range(size):
            step(first + n * size + s)
        return _

    lax.fori_loop(np.int32(0), rounds, some, np.int32(0))


def _evaluated(
    traced: _Traced,
    operands: Sequence[Operand],
    refs: Sequence[Any],
    carry: Sequence[Any],
    t: Any,
    now: Now,
) -> Iterator[Any]:
    """Evaluate the step t of a block: the flat results that have elements."""
    rest = iter(refs)
    values = [each.read([next(rest) for _ in each.arrays], t, now) for each in operands]
    consts, given = values[: len(traced.closed.consts)], iter(values[len(traced.closed.consts) :])
    arguments = [next(given) if flag else None for flag in traced.used]
    made = inlined.evaluate(traced.closed.jaxpr, consts, [*arguments, *carry])
    return (value for value in made if np.size(value))
