"""`reset_carry`: the start of an episode, for loops of steps."""

import jax

from ._arguments import explained
from ._cells.contract import Recurrent, check_carry, restarted
from ._checks import as_array, check_flags, unboxed
from ._net import Net, check_net
from ._typing import Array, Carry, Params


@explained
def reset_carry(cell: Recurrent | Net, params: Params, carry: Carry, reset: Array) -> Carry:
    """Put the carry back to `cell.initial_carry` where an episode starts.

    No gradient passes from there to the old carry, and no NaN of it. `unroll` does this at its
    `resets` and `step` at its `reset`; by itself it serves a carry that is stored between rollouts.

    Args:
        cell, params: a cell or net, and its parameters.
        carry: leaves [*batch, H].
        reset: [*batch] bool, True where the carry restarts; `dones` of the last step, for example.

    Raises:
        ValueError: a wrong shape or dtype.
    """
    check_net("cell", cell, "reset_carry(cell, params, carry, reset)")
    reset = as_array("reset", reset)
    reset = check_flags("reset", reset, reset.shape, "[*batch]")
    params = unboxed(params)
    check_carry(carry, jax.eval_shape(lambda: cell.initial_carry(params, reset.shape)))
    return restarted(cell, params, carry, reset)
