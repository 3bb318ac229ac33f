"""Nets of cells: stacks, bidirectional layers, residual connections, readouts and embeddings."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from . import initializers
from ._arguments import explained
from ._cells.contract import Recurrent
from ._checks import (
    check_choice,
    check_flag_fields,
    check_positive_int,
    check_range,
    fail,
    is_function,
)
from ._net import Net, Walk, Walked, cells_of, check_net, output_size
from ._numerics import concatenated, rows_as, summable
from ._pointwise import Function, affine, affine_params
from ._typing import Array, Carry, Initializer, Key, Params


@explained
def stack(
    *layers: Recurrent | Net | Callable[[Array], Array],
    dropout: float = 0.0,
    variational: bool = False,
    skip: str | None = None,
) -> Net:
    """Stack layers: the outputs of each are the inputs of the next.

        net = stack(LSTM(128), GRU(64), dropout=0.1)
        params = {"0": ..., "1": ...};  carry = (LSTMState(h, c), State(h))

        net = stack(dense(64), jax.nn.relu, LSTM(128), dense(10))
        params = {"0": {"w", "b"}, "1": {}, "2": ..., "3": ...};  carry = ((), (), LSTMState, ())

    Args:
        layers: cells and nets, of any sizes, dense layers (`dense`), and functions such as
            `jax.nn.relu`. A function maps x_t [D] of one step to y_t [N] and sees neither time nor
            batch; it belongs to the layer before it, without dropout or a skip between them. A
            lambda made anew is another function, for which a call compiles anew.
        dropout: rate p of dropout between layers (not after the last) in training, that is when
            `unroll` gets a key: each output is zeroed with probability p, the others are divided
            by 1 - p; with p = 1 all are zero.
        variational: use one dropout mask for all time steps of a sequence (Gal & Ghahramani 2016),
            not a new one at each step.
        skip: "dense" adds skip connections (Graves 2013): every layer but the first gets the net's
            inputs concatenated with the outputs of the layer before, and the net's outputs are the
            outputs of all layers, concatenated. None: no skip connections.

    Raises:
        ValueError: no layers, a rate outside [0, 1], an unknown skip; in `init`, a function that
            does not map a vector to a vector of floats.
    """
    if len(layers) == 1 and isinstance(layers[0], (list, tuple)):
        seen = f"a {type(layers[0]).__name__} of {len(layers[0])}"
        raise fail("layers", seen, "cells and nets, each an argument", "pass stack(*layers)")
    return Stack(layers, dropout, variational, skip)


@explained
def bidirectional(
    forward: Recurrent | Net, backward: Recurrent | Net | None = None, merge: str | None = "concat"
) -> Net:
    """Run two layers over the same inputs, one in each direction of time.

    Outputs are aligned with the inputs: at step t the forward layer has seen the steps up to t, the
    backward layer those from t on. Parameters {"forward": ..., "backward": ...}; the carry is
    `Directions(forward, backward)`, and the final carry has that of each layer after its own last
    step. To stack bidirectional layers as PyTorch does:
    `stack(bidirectional(a), bidirectional(b))`.

    Args:
        forward: a cell or net.
        backward: a cell or net; None: one like `forward`, with its own parameters.
        merge: how to combine the outputs: "concat" [forward, backward], "sum", "mul", "mean", or
            None for a pair (forward, backward).

    Raises:
        ValueError: an unknown merge, or sizes that it cannot combine.
    """
    return Bidirectional(forward, forward if backward is None else backward, merge)


@explained
def residual(net: Recurrent | Net) -> Net:
    """Add a residual connection: y_t = x_t + net(x)_t (He et al. 2016), with equal sizes.

    Parameters {"inner": ...}.
    """
    return Residual(net)


@explained
def readout(net: Recurrent | Net, output_size: int, bias: bool = True) -> Net:
    """Add a linear readout: y_t = net(x)_t @ w + b, zero at steps that are not valid.

    Parameters {"inner": ..., "w": ..., "b": ...}; without b if bias=False.
    """
    return Readout(net, output_size, bias)


@explained
def embedding(net: Recurrent | Net, vocabulary_size: int, size: int) -> Net:
    """Embed integer inputs xs [T, *batch]: `net` runs over rows e[x_t] of a table e.

    Parameters {"inner": ..., "e": [vocabulary_size, size]}; `init` takes no input_size. An id
    outside the table, including a negative one, gives a row of NaN.
    """
    return Embedding(net, vocabulary_size, size)


@dataclasses.dataclass(frozen=True)
class Stack(Net):
    """Layers one after another, as `stack` builds them."""

    layers: tuple[Any, ...]
    dropout: float = 0.0
    variational: bool = False
    skip: str | None = None

    def __post_init__(self):
        if not self.layers:
            raise fail("layers", "none", "a cell or more", "pass for example stack(LSTM(128))")
        layers = [Function(each) if is_function(each) else each for each in self.layers]
        object.__setattr__(self, "layers", tuple(layers))
        for layer in layers:
            check_net("layers", layer)
        check_flag_fields(self)
        check_range("dropout", self.dropout, 0, 1)
        check_choice("skip", self.skip, (None, "dense"))
        for layer in self.layers if self.skip else self.layers[:-1]:
            _check_one_output("layers", layer)
        for layer in self.layers if self.skip else self.layers[1:]:
            _check_feature_axes("layers", layer)

    @property
    def parts(self) -> dict[str, Any]:
        return {str(n): layer for n, layer in enumerate(self.layers)}

    def replace(self, parts: dict[str, Any]) -> "Stack":
        return dataclasses.replace(self, layers=tuple(parts.values()))

    @property
    def stochastic(self) -> bool:
        """True if there is dropout between the layers, or noise in one of them."""
        return self.dropout > 0 or super().stochastic

    def join(self, carries: Sequence[Any]) -> Any:
        return tuple(carries)

    @property
    def input_ndim(self) -> int:
        """Number of feature axes of one input: that of the first layer with a cell, or 1."""
        return next((layer.input_ndim for layer in self.layers if cells_of(layer)), 1)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        sizes = {}

        def run(n: int, layer: Any, size: int) -> int:
            sizes[str(n)] = size
            return output_size(layer, size)

        return sizes, self._chained(input_size, run, join=sum)

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Run one time step of all layers, in evaluation."""
        carries = []

        def run(n: int, layer: Any, x: Array) -> Array:
            new, y = layer.unchecked_step(params[str(n)], carry[n], x)
            carries.append(new)
            return y

        y = self._chained(x, run)
        return tuple(carries), y

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        keys, walked = _keys(key, 2 * len(self.layers)), []

        def run(n: int, layer: Any, xs: Array) -> Array:
            given = params[str(n)], xs, carry[n], keys[2 * n + 1]
            walked.append(walk.layer(layer, *given, walk.reverse))
            return walked[-1].ys

        ys = self._chained(xs, run, lambda n, ys: self._drop(keys[2 * n], ys))
        finals, _, carries = zip(*walked, strict=True)
        return Walked(finals, ys, carries)

    def _chained(
        self,
        xs: Any,
        run: Callable[[int, Any, Any], Any],
        drop: Callable[[int, Any], Any] = lambda n, ys: ys,
        join: Callable[[list[Any]], Any] = concatenated,
    ) -> Any:
        """Compute the net's outputs from its inputs, by run(n, layer, its inputs) -> its outputs.

        drop(n, ys) is what the n-th layer gets of the outputs of the one before.
        """
        outputs, ys = [], xs
        for n, layer in enumerate(self.layers):
            if isinstance(layer, Function):  # A part of the layer before.
                ys = run(n, layer, ys)
                outputs[-1:] = [ys] if outputs else []
                continue
            if outputs:
                ys = drop(n, ys)
                ys = join([xs, ys]) if self.skip else ys
            ys = run(n, layer, ys)
            outputs.append(ys)
        return join(outputs) if self.skip and outputs else ys

    def _drop(self, key: Key | None, ys: Array) -> Array:
        return ys if key is None else dropout(key, ys, self.dropout, self.variational)


class Directions(NamedTuple):
    """The carry of a bidirectional net: one carry for each direction."""

    forward: Any
    backward: Any


jax.export.register_namedtuple_serialization(Directions, serialized_name="lstm_jax.Directions")


_MERGES = {
    "concat": lambda a, b: concatenated([a, b]),
    "sum": jnp.add,
    "mul": jnp.multiply,
    "mean": lambda a, b: (a + b) / 2,
    None: lambda a, b: (a, b),
}


@dataclasses.dataclass(frozen=True)
class Bidirectional(Net):
    """Two layers in opposite directions of time, as `bidirectional` builds them."""

    forward: Any
    backward: Any
    merge: str | None = "concat"

    def __post_init__(self):
        check_net("forward", self.forward)
        check_net("backward", self.backward)
        if self.forward.input_ndim != self.backward.input_ndim:
            axes = f"{self.forward.input_ndim} and {self.backward.input_ndim} feature axes"
            remedy = "put an embedding around the bidirectional net"
            raise fail("forward, backward", axes, "two nets over the same inputs", remedy)
        check_choice("merge", self.merge, _MERGES)

    @property
    def parts(self) -> dict[str, Any]:
        return {"forward": self.forward, "backward": self.backward}

    def replace(self, parts: dict[str, Any]) -> "Bidirectional":
        return Bidirectional(**parts, merge=self.merge)

    def join(self, carries: Sequence[Any]) -> Any:
        return Directions(*carries)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        forward, backward = (output_size(part, input_size) for part in self.parts.values())
        if self.merge in ("sum", "mul", "mean") and forward != backward:
            remedy = f'sizes {forward} and {backward} do not agree; use merge="concat"'
            raise fail("merge", repr(self.merge), "outputs of one size", remedy)
        total = forward + backward if self.merge == "concat" else forward
        return {"forward": input_size, "backward": input_size}, total

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        keys = _keys(key, 2)
        ahead, back = (
            walk.layer(part, params[name], xs, carry[n], keys[n], walk.reverse ^ bool(n))
            for n, (name, part) in enumerate(self.parts.items())
        )
        ys = _MERGES[self.merge](ahead.ys, back.ys)
        return Walked(
            Directions(ahead.final, back.final), ys, Directions(ahead.carries, back.carries)
        )


@dataclasses.dataclass(frozen=True)
class Around(Net):
    """Base class of nets around one inner net, whose carry they share."""

    inner: Any

    def __post_init__(self):
        check_net("net", self.inner)

    @property
    def parts(self) -> dict[str, Any]:
        return {"inner": self.inner}

    def replace(self, parts: dict[str, Any]) -> "Around":
        return dataclasses.replace(self, **parts)

    def join(self, carries: Sequence[Any]) -> Any:
        return carries[0]

    def before(self, params: Params, xs: Array) -> Array:
        """The inputs of the inner net, computed from xs."""
        del params
        return xs

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        """The outputs, computed from those of the inner net, ys."""
        raise NotImplementedError

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Run one time step, in evaluation."""
        inputs = self.before(params, x)
        carry, y = self.inner.unchecked_step(params["inner"], carry, inputs)
        return carry, self.after(params, x, y)

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        inputs = self.before(params, xs)
        inner = walk.layer(self.inner, params["inner"], inputs, carry, key, walk.reverse)
        return inner._replace(ys=walk.mask(self.after(params, xs, inner.ys)))


@dataclasses.dataclass(frozen=True)
class Residual(Around):
    """A net with a residual connection, as `residual` builds it."""

    def __post_init__(self):
        super().__post_init__()
        _check_one_output("net", self.inner)
        _check_feature_axes("net", self.inner)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        size = output_size(self.inner, input_size)
        if size != input_size:
            remedy = f"the inner net's outputs have size {size}; make it {input_size}"
            raise fail("net", f"D = {input_size}", "outputs of the size of the inputs", remedy)
        return {"inner": input_size}, size

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        return xs.astype(ys.dtype) + ys


@dataclasses.dataclass(frozen=True)
class Readout(Around):
    """A net with a linear readout, as `readout` builds it."""

    output_size: int
    bias: bool = True
    w_init: Initializer = initializers.lecun_normal()

    init_only = ("w_init",)

    def __post_init__(self):
        super().__post_init__()
        _check_one_output("net", self.inner)
        check_positive_int("output_size", self.output_size)
        check_flag_fields(self)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        return {"inner": input_size}, self.output_size

    def init(self, key: Key, input_size: int | None = None) -> Params:
        """Draw {"inner": ..., "w": [H, output_size], "b": [output_size]}."""
        params = super().init(key, input_size)
        size = output_size(self.inner, input_size or 0)
        return params | affine_params(self, jax.random.fold_in(key, 1), size)

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        return affine(params, ys)


@dataclasses.dataclass(frozen=True)
class Embedding(Around):
    """A net with an embedding of its integer inputs, as `embedding` builds it."""

    vocabulary_size: int
    size: int
    e_init: Initializer = initializers.normal(1.0)

    init_only = ("e_init",)

    def __post_init__(self):
        super().__post_init__()
        check_positive_int("vocabulary_size", self.vocabulary_size)
        check_positive_int("size", self.size)

    @property
    def input_ndim(self) -> int:
        """Number of feature axes of one input: 0, as it is an integer."""
        return 0

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        del input_size  # The inputs of the inner net are rows of the table.
        return {"inner": self.size}, output_size(self.inner, self.size)

    def init(self, key: Key, input_size: int | None = None) -> Params:
        """Draw {"inner": ..., "e": [vocabulary_size, size]}; input_size is ignored."""
        params = super().init(key, input_size)
        shape = (self.vocabulary_size, self.size)
        return params | {"e": self.e_init(jax.random.fold_in(key, 1), shape, jnp.float32)}

    def before(self, params: Params, xs: Array) -> Array:
        e = params["e"]
        # In float32, as the gradient of a row is a sum over all steps that use it.
        rows = (
            e.astype(summable(e.dtype))
            .at[xs]
            .get(
                mode="fill",
                fill_value=jnp.nan,
                wrap_negative_indices=False,
                out_sharding=rows_as(xs),
            )
        )
        return rows.astype(e.dtype)

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        return ys


def dropout(key: Key, xs: Array, rate: float, variational: bool) -> Array:
    """Zero each element of xs [T, *batch, N] with probability p = `rate`; divide the rest by 1 - p.

    With `variational` every time step has the same mask.
    """
    shape = (1, *xs.shape[1:]) if variational else xs.shape
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(jnp.broadcast_to(kept, xs.shape), xs / (1.0 - rate or 1.0), 0)


def _check_one_output(argument: str, net: Any) -> None:
    """Raise if a net's output is a pair (merge=None), which no outer net can use."""
    inner = net
    while isinstance(inner, (Residual, Readout, Embedding)):
        inner = inner.inner
    if isinstance(inner, Stack):
        return _check_one_output(argument, inner.layers[-1])
    if isinstance(inner, Bidirectional) and inner.merge is None:
        raise fail(argument, "merge=None below others", "one output", 'use merge="concat"')


def _check_feature_axes(argument: str, net: Any) -> None:
    """Raise if a net takes integers, where it gets the float outputs of another net."""
    if not net.input_ndim:
        remedy = "put the embedding around the whole: embedding(net, ...)"
        raise fail(argument, "a net over integers", "one over floating-point inputs", remedy)


def _keys(key: Key | None, count: int) -> Any:
    return [None] * count if key is None else jax.random.split(key, count)
