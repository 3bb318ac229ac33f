"""`implementation="scan"`: plain `lax.scan` over `step` with JAX's autodiff; the reference."""

from typing import Any

import jax
from jax import lax

from ..._cells.contract import Recurrent
from ..._numerics import choose, shared, zero_unless
from ..._sequence import Sequence
from ..._typing import Carry, Params
from ..record import Asked, described, named
from .kinds import Walk


def why_not(cell: Recurrent, platform: str) -> str | None:
    """Return None: this implementation runs every cell on every platform."""
    del cell, platform
    return None


def unroll(
    cell: Recurrent,
    params: Params,
    seq: Sequence,
    *,
    reverse: bool,
    asked: Asked,
) -> tuple[Carry, Any]:
    """Unroll one cell and return (final carry, (ys, carries of all steps))."""
    given = shared((params, seq.origin))

    def step(carry, inputs):
        x, valid, restart, noise = inputs
        params, origin = given()
        start = carry if restart is None else choose(restart, origin, carry)
        new, y = cell.unchecked_step(params, start, x, noise)
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, carry)
        carry = choose(valid, new, start)
        return carry, (zero_unless(valid, y), carry)

    xs = (seq.xs, seq.valid, seq.restart, seq.noise)
    with named(described(asked, cell, seq.xs.shape[0], seq.carry, reverse)):
        return lax.scan(step, seq.carry, xs, reverse=reverse)


WALK = Walk(why_not, unroll)
