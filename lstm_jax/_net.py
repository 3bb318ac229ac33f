"""`Net`, the base class of nets of several cells, which `unroll` walks layer by layer.

Each layer runs over the whole sequence before the next one starts, so that every input projection
stays one matmul over all time steps.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ._cells.base import check_start
from ._cells.contract import Recurrent, compiled_step, in_place_of
from ._checks import check_key, check_positive_int, fail, shown
from ._numerics import zero_unless
from ._static import Static
from ._typing import Array, Carry, Key, Params


class Walked(NamedTuple):
    """The result of running one layer over a sequence.

    Attributes:
        final: the carry after the last step.
        ys: the outputs [T, *batch, N].
        carries: the carries after every step if requested, else None.
    """

    final: Carry
    ys: Array
    carries: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """Context of one call of `unroll`: how to run a layer, which steps are valid, the direction.

    Attributes:
        layer: `layer(net, params, xs, carry, key, reverse) -> Walked`.
        valid: [T, *batch] bool, or None if all steps are valid.
        reverse: True to walk time backwards.
    """

    layer: Callable[..., Walked]
    valid: Array | None
    reverse: bool

    def mask(self, ys: Any) -> Any:
        """Zero ys at the steps that are not valid."""
        return zero_unless(self.valid, ys)


class Net(Static, abc.ABC):
    """Base class of nets of cells, such as `stack` builds; `unroll` takes a net like a cell.

    A net is a frozen, hashable dataclass; its parameters and carry nest like its parts.
    """

    @property
    @abc.abstractmethod
    def parts(self) -> dict[str, Any]:
        """The cells and nets inside, by the names of their entries in the parameters."""

    @abc.abstractmethod
    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        """Work out (D of each part by name, size of the outputs) for inputs of D = input_size."""

    @abc.abstractmethod
    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        """Run the net over xs [T, *batch, D]."""

    @abc.abstractmethod
    def join(self, carries: Sequence[Any]) -> Any:
        """Combine the carries of the parts into the carry of the net."""

    def init(self, key: Key, input_size: int | None = None) -> Params:
        """Draw {name: parameters of the part}; a net over an `embedding` takes no input_size."""
        check_key("key", key)
        if self.input_ndim:
            check_positive_int("input_size", input_size, least=0)
        keys = jax.random.split(key, max(len(self.parts), 1))
        sizes, _ = self.sizes(input_size or 0)
        return {
            name: part.init(key, sizes[name])
            for key, (name, part) in zip(keys, self.parts.items(), strict=False)
        }

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry before the first step."""
        check_start(params, batch_shape)
        check_part_names(self, params)
        return self.join(
            [part.initial_carry(params[name], batch_shape) for name, part in self.parts.items()]
        )

    def step(
        self, params: Params, carry: Carry, x: Array, reset: Array | None = None
    ) -> tuple[Carry, Array]:
        """Run one time step of all layers, in evaluation: the streaming form of `unroll`.

        `reset` [*batch] bool is True where an episode starts: there the carry restarts first.

        Raises:
            ValueError: the net needs later inputs (it is bidirectional); a wrong shape or dtype.
        """
        return compiled_step(self, params, carry, x, reset)

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Run `step` without its checks of arguments."""
        remedy = "unroll it over whole sequences"
        raise fail("net", type(self).__name__, "one whose step needs no later input", remedy)

    @property
    def input_ndim(self) -> int:
        """Number of feature axes of one input, that of the first part."""
        return next(iter(self.parts.values())).input_ndim

    @property
    def stochastic(self) -> bool:
        """True if training draws random numbers, so that `unroll` needs a key for it."""
        return any(part.stochastic for part in self.parts.values())

    def map(self, change: Callable[[Any], Any]) -> "Net":
        """The net with `change(cell)` in place of every cell."""
        changed = {name: map_cells(change, part) for name, part in self.parts.items()}
        return self.replace(changed)

    @abc.abstractmethod
    def replace(self, parts: dict[str, Any]) -> "Net":
        """The net with these parts in place of its own."""


def map_cells(change: Callable[[Any], Any], net: Any) -> Any:
    """Apply `change` to a cell, or to every cell of a net."""
    return net.map(change) if isinstance(net, Net) else change(net)


def cells_of(net: Any) -> list[Any]:
    """Every cell of a net, in the order in which they run."""
    if not isinstance(net, Net):
        return [net]
    return [cell for part in net.parts.values() for cell in cells_of(part)]


def output_size(net: Any, input_size: int) -> int:
    """The size of y_t of a cell or net for inputs of D = input_size."""
    if isinstance(net, Net):
        return net.sizes(input_size)[1]

    def y(key):
        params = net.init(key, input_size)
        return net.emit(params, net.initial_carry(params), net.compute_dtype(params))

    return jax.eval_shape(y, jax.random.key(0)).shape[-1]


def check_net(argument: str, net: Any, call: str = "") -> None:
    """Raise unless `net` is a cell or a net; `call` shows the order of the arguments."""
    if not isinstance(net, (Recurrent, Net)):
        remedy = in_place_of(net, f"the order is {call}" if call else "")
        raise fail(argument, shown(net), "a cell or a net (a Recurrent or a Net)", remedy)


def check_part_names(net: Net, params: Params) -> None:
    """Raise unless params have an entry for each part of the net."""
    if not isinstance(params, Mapping) or not set(net.parts) <= set(params):
        seen = sorted(params) if isinstance(params, Mapping) else shown(params)
        raise fail("params", seen, " ".join(net.parts), "pass what net.init gives")
