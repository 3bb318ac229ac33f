"""Layers that act on each step alone, for places before, between and after cells."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import initializers
from ._arguments import explained
from ._checks import check_flag_fields, check_positive_int, fail, is_floating, is_function, shown
from ._net import Net, Walk, Walked
from ._numerics import matmul, summable
from ._typing import Array, Carry, Initializer, Key, Params


@explained
def dense(output_size: int, bias: bool = True) -> Net:
    """Make a dense layer: y_t = x_t @ w + b, zero at steps that are not valid.

        net = stack(dense(64), jax.nn.relu, LSTM(128), dense(10))

    Parameters {"w": [D, output_size], "b": [output_size]}, without b if bias=False; the carry is
    (). It acts on the last axis, so of images on the channels of each place.

    Raises:
        ValueError: an output_size that is not a positive integer.
    """
    return Dense(output_size, bias)


class Pointwise(Net):
    """Base class of layers without cells: y_t is a function of x_t alone; the carry is ()."""

    @abc.abstractmethod
    def apply(self, params: Params, xs: Array) -> Array:
        """Compute the outputs [..., N] of xs [..., D]."""

    @property
    def parts(self) -> dict[str, Any]:
        return {}

    def replace(self, parts: dict[str, Any]) -> "Pointwise":
        del parts
        return self

    def join(self, carries: Sequence[Any]) -> Any:
        return tuple(carries)

    @property
    def input_ndim(self) -> int:
        """Number of feature axes of one input: 1."""
        return 1

    def unchecked_step(self, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        """Run one time step."""
        return carry, self.apply(params, x)

    def walk(self, walk: Walk, params: Params, xs: Array, carry: Carry, key: Key | None) -> Walked:
        # Both masks: the derivative of a function need not be finite at the zeros of padding.
        ys = walk.mask(self.apply(params, walk.mask(xs)))
        return Walked((), ys, ())


@dataclasses.dataclass(frozen=True)
class Dense(Pointwise):
    """A dense layer, as `dense` builds it."""

    output_size: int
    bias: bool = True
    w_init: Initializer = initializers.lecun_normal()

    init_only = ("w_init",)

    def __post_init__(self):
        check_positive_int("output_size", self.output_size)
        check_flag_fields(self)

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        del input_size
        return {}, self.output_size

    def init(self, key: Key, input_size: int | None = None) -> Params:
        """Draw {"w": [D, output_size], "b": [output_size]}."""
        super().init(key, input_size)
        return affine_params(self, key, input_size or 0)

    def apply(self, params: Params, xs: Array) -> Array:
        return affine(params, xs)


def affine_params(layer: Any, key: Key, input_size: int) -> Params:
    """Draw the parameters of `affine` for a layer with an output_size, a bias and a w_init."""
    shape = (input_size, layer.output_size)
    w = layer.w_init(key, shape, jnp.float32) if input_size else jnp.zeros(shape)
    return {"w": w, "b": jnp.zeros(layer.output_size)} if layer.bias else {"w": w}


def affine(params: Params, xs: Array) -> Array:
    """Compute xs @ w + b, b if there is one, in the dtype of xs. [..., D] -> [..., N]"""
    biases = [params["b"]] if "b" in params else []
    w, sums = params["w"].astype(xs.dtype), summable(xs.dtype)
    return matmul(xs, w, sums, biases, result=xs.dtype)


@dataclasses.dataclass(frozen=True)
class Function(Pointwise):
    """A function between layers, as `stack` makes it of any function; it has no parameters.

    Attributes:
        function: from x_t [D] of one step to y_t [N], or the name of one of `jax.nn`. Functions of
            `jax.nn` become their names, so that nets with them can be saved, pickled and compared.
    """

    function: str | Callable[[Array], Array]

    def __post_init__(self):
        name = self.function if isinstance(self.function, str) else _name_of(self.function)
        if name is not None:
            object.__setattr__(self, "function", name)
        if not is_function(self._called):
            wanted = "a function, or the name of one of jax.nn"
            raise fail("function", shown(self.function), wanted, "pass for example jax.nn.relu")

    @property
    def _called(self) -> Any:
        if isinstance(self.function, str):
            return vars(jax.nn).get(self.function)
        return self.function

    def sizes(self, input_size: int) -> tuple[dict[str, int], int]:
        """Raise unless the function takes x_t [D] to a vector of floats."""
        x = jax.ShapeDtypeStruct((input_size,), jnp.float32)
        wanted = f"a function of one x_t [D = {input_size}] that gives a vector of floats [N]"
        remedy = "it sees neither time nor batch; write a Cell for what does more"
        try:
            y = jax.eval_shape(lambda x: self._called(x), x)  # JAX crashes on ufuncs of NumPy.
        except Exception as error:  # Of the caller's function, so it may be any.
            seen = f"{shown(self.function)}, which raises {type(error).__name__}: {error}"
            raise fail("layers", seen, wanted, remedy) from error
        if len(getattr(y, "shape", ())) != 1 or not is_floating(y.dtype):
            raise fail("layers", f"{shown(self.function)}, which gives {y}", wanted, remedy)
        return {}, y.shape[0]

    def apply(self, params: Params, xs: Array) -> Array:
        """Apply the function to each vector on the last axis, in the dtype of xs."""
        del params
        mapped = functools.reduce(lambda f, _: jax.vmap(f), range(xs.ndim - 1), self._called)
        return mapped(xs).astype(xs.dtype)


def _name_of(function: Any) -> str | None:
    """The name in `jax.nn` of a function that is found there."""
    name = getattr(function, "__name__", None)
    return name if name is not None and vars(jax.nn).get(name) is function else None
