"""Nets: cells one after another, side by side in both directions, around a skip, to a readout."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from . import initializers
from ._cells.contract import Recurrent
from ._checks import (
    check_choice,
    check_flag_fields,
    check_positive_int,
    check_range,
    fail,
)
from ._net import Net, Walk, Walked, check_net, output_size
from ._numerics import concatenated, summable
from ._products import matmul
from ._typing import Array, Carry, Initializer, Key, Params


def stack(
    *layers: Recurrent | Net,
    dropout: float = 0.0,
    variational: bool = False,
    skip: str | None = None,
) -> Net:
    """Layers one after another: the outputs of each are the inputs of the next.

        net = stack(LSTM(128), GRU(64), dropout=0.1)
        params = {"0": ..., "1": ...};  carry = (LSTMState(h, c), State(h))

    Args:
        layers: cells and nets, of any sizes.
        dropout: rate p between layers (not after the last), in training, that is where `unroll` has
            a key: an output is zeroed with probability p, the others are divided by 1 - p; at
            p = 1 all are zero.
        variational: one dropout mask for all time steps of a sequence (Gal & Ghahramani 2016), in
            place of a new one each step.
        skip: "dense": every layer but the first sees the net's inputs beside the outputs of the
            layer before, and the net's outputs are those of all layers, side by side (Graves 2013).

    Raises:
        ValueError: no layers, a rate outside [0, 1], an unknown skip.
    """
    return Stack(layers, dropout, variational, skip)


def bidirectional(
    forward: Recurrent | Net, backward: Recurrent | Net | None = None, merge: str | None = "concat"
) -> Net:
    """Two layers over the same inputs, one in each direction of time.

    Outputs stay aligned to the inputs: at t, the forward layer has seen steps up to t and the
    backward layer those from t on. Parameters {"forward": ..., "backward": ...}; the carry is
    `Directions(forward, backward)`, the final one that of each after its own last step. Several
    bidirectional layers, as PyTorch stacks them: `stack(bidirectional(a), bidirectional(b))`.

    Args:
        forward: a cell or net.
        backward: another; None: one like `forward`, with parameters of its own.
        merge: "concat" [forward, backward], "sum", "mul", "mean", or None: a pair (forward,
            backward).

    Raises:
        ValueError: an unknown merge; sizes that cannot be merged.
    """
    return Bidirectional(forward, forward if backward is None else backward, merge)


def residual(net: Recurrent | Net) -> Net:
    """y_t = x_t + net(x)_t (He et al. 2016); the sizes must agree. Parameters {"inner": ...}."""
    return Residual(net)


def readout(net: Recurrent | Net, output_size: int, bias: bool = True) -> Net:
    """y_t = net(x)_t @ w + b, at valid steps. Parameters {"inner": ..., "w": ..., "b": ...}."""
    return Readout(net, output_size, bias)


def embedding(net: Recurrent | Net, vocabulary_size: int, size: int) -> Net:
    """net over the rows e[x_t] of a table e [vocabulary_size, size], for integer xs [T, *batch].

    Parameters {"inner": ..., "e": ...}; `init` takes no input_size. An id outside the table, a
    negative one too, gives a row of NaN.
    """
    return Embedding(net, vocabulary_size, size)


@dataclasses.dataclass(frozen=True)
class Stack(Net):
    """What `stack` makes."""

    layers: tuple[Any, ...]
    dropout: float = 0.0
    variational: bool = False
    skip: str | None = None

    def __post_init__(self):
        if not self.layers:
            raise fail("layers", "none", "a cell or more", "pass such as stack(LSTM(128))")
        for layer in self.layers:
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

    def join(self, carries: Sequence[Any]) -> Any:
        return tuple(carries)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        sizes, outputs, size = {}, [], input_size
        for name, layer in self.parts.items():
            sizes[name] = size
            outputs.append(output_size(layer, size))
            size = outputs[-1] + (input_size if self.skip else 0)
        return sizes, sum(outputs) if self.skip else outputs[-1]

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """One time step of all layers, in evaluation."""
        carries, outputs, y = [], [], x
        for (name, layer), carry_in in zip(self.parts.items(), carry, strict=True):
            given = self._beside(x, y, outputs)
            new, y = layer.unchecked_step(params[name], carry_in, given)
            carries.append(new)
            outputs.append(y)
        return tuple(carries), self._outputs(outputs)

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        walked, outputs, ys = [], [], xs
        keys = _keys(key, 2 * len(self.layers))
        for n, (name, layer) in enumerate(self.parts.items()):
            if outputs:
                ys = self._drop(keys[2 * n], ys)
            inputs = self._beside(xs, ys, outputs)
            walked.append(
                walk.layer(layer, params[name], inputs, carry[n], keys[2 * n + 1], walk.reverse)
            )
            ys = walked[-1].ys
            outputs.append(ys)
        finals, _, carries = zip(*walked, strict=True)
        return Walked(finals, self._outputs(outputs), carries)

    def _beside(self, xs: Array, ys: Array, outputs: list[Array]) -> Array:
        return concatenated([xs, ys]) if self.skip and outputs else ys

    def _outputs(self, outputs: list[Array]) -> Array:
        return concatenated(outputs) if self.skip else outputs[-1]

    def _drop(self, key: Key | None, ys: Array) -> Array:
        return ys if key is None else dropout(key, ys, self.dropout, self.variational)


class Directions(NamedTuple):
    """The carry of a bidirectional net: that of each direction."""

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
    """What `bidirectional` makes."""

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
    """A net around one other, whose carry is that one's."""

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
        """What the inner net sees of xs."""
        del params
        return xs

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        """The outputs, from those of the inner net."""
        raise NotImplementedError

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """One time step, in evaluation."""
        inputs = self.before(params, x)
        carry, y = self.inner.unchecked_step(params["inner"], carry, inputs)
        return carry, self.after(params, x, y)

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        inputs = self.before(params, xs)
        inner = walk.layer(self.inner, params["inner"], inputs, carry, key, walk.reverse)
        return inner._replace(ys=walk.mask(self.after(params, xs, inner.ys)))


@dataclasses.dataclass(frozen=True)
class Residual(Around):
    """What `residual` makes."""

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
    """What `readout` makes."""

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
        """{"inner": ..., "w": [H, output_size], "b": [output_size]}."""
        params = super().init(key, input_size)
        shape = (output_size(self.inner, input_size or 0), self.output_size)
        params["w"] = self.w_init(jax.random.fold_in(key, 1), shape, jnp.float32)
        return params | ({"b": jnp.zeros(self.output_size)} if self.bias else {})

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        biases = [params["b"]] if self.bias else []
        w, sums = params["w"].astype(ys.dtype), summable(ys.dtype)
        return matmul(ys, w, sums, biases, result=ys.dtype)


@dataclasses.dataclass(frozen=True)
class Embedding(Around):
    """What `embedding` makes."""

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
        """0: an input is one integer."""
        return 0

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        del input_size  # The table decides what the inner net sees.
        return {"inner": self.size}, output_size(self.inner, self.size)

    def init(self, key: Key, input_size: int | None = None) -> Params:
        """{"inner": ..., "e": [vocabulary_size, size]}; input_size has no meaning here."""
        params = super().init(key, input_size)
        shape = (self.vocabulary_size, self.size)
        return params | {"e": self.e_init(jax.random.fold_in(key, 1), shape, jnp.float32)}

    def before(self, params: Params, xs: Array) -> Array:
        e = params["e"]
        # Wide, as the gradient of a row is a sum over all places that it is read at.
        rows = (
            e.astype(summable(e.dtype))
            .at[xs]
            .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )
        return rows.astype(e.dtype)

    def after(self, params: Params, xs: Array, ys: Array) -> Array:
        return ys


def dropout(key: Key, xs: Array, rate: float, variational: bool) -> Array:
    """xs [T, *batch, N], each number zeroed with probability p = `rate`, the others over 1 - p.

    `variational`: the same at every time step.
    """
    shape = (1, *xs.shape[1:]) if variational else xs.shape
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(jnp.broadcast_to(kept, xs.shape), xs / (1.0 - rate or 1.0), 0)


def _check_one_output(argument: str, net: Any) -> None:
    """Raise where a net's output is a pair, of which nothing can be made but the net's own."""
    inner = net
    while isinstance(inner, (Residual, Readout, Embedding)):
        inner = inner.inner
    if isinstance(inner, Stack):
        return _check_one_output(argument, inner.layers[-1])
    if isinstance(inner, Bidirectional) and inner.merge is None:
        raise fail(argument, "merge=None below others", "one output", 'use merge="concat"')


def _check_feature_axes(argument: str, net: Any) -> None:
    """Raise where a net would read what another wrote, or adds to it, as integers."""
    if not net.input_ndim:
        remedy = "put the embedding around the whole: embedding(net, ...)"
        raise fail(argument, "a net over integers", "one over floating-point inputs", remedy)


def _keys(key: Key | None, count: int) -> Any:
    return [None] * count if key is None else jax.random.split(key, count)
