"""The convolutional LSTM."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from .. import initializers
from .._checks import check_choice, check_positive_int, fail
from .._typing import Array, Initializer, Key, Params
from .base import check_start
from .lstm import LSTM, LSTMState


@dataclasses.dataclass(frozen=True)
class ConvLSTM(LSTM):
    """Convolutional LSTM, over one, two or three spatial axes.

        i_t, f_t, g_t, o_t = split(x_t (*) w_ih + b + h_{t-1} (*) w_hh)
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(c_t)

    (*) is a convolution, channels last: xs [T, *batch, *input_shape, D] gives ys
    [T, *batch, *output_shape, H]. The convolution of h has stride one and keeps the shape.

    Parameters: w_ih [*kernel_shape, D, 4H], w_hh [*kernel_shape, H, 4H], b [4H], gates stored in
    the order i, f, g, o. The forget bias is initialised to one in b; the equations add no constant.

    Attributes:
        hidden_size: H, the number of channels of the state and the output.
        kernel_shape: the sizes of the kernels along the 1, 2 or 3 spatial axes.
        input_shape: the sizes of x_t along the spatial axes.
        strides: strides of the input's convolution; one number for all axes, or one for each.
        padding: padding of the input's convolution, "same" or "valid".
        dilation: dilation of the input's convolution; like `strides`.

    The other attributes are those of `LSTM`, without peepholes and projection; an initializer draws
    one gate's kernel [*kernel_shape, D, H].

    Raises:
        ValueError: sizes that are not positive, not one for each axis, or larger than the input;
            peepholes or a projection.

    Source: Shi et al. (2015), "Convolutional LSTM network", arXiv 1506.04214, without its peephole
    connections.
    """

    kernel_shape: Sequence[int] = dataclasses.field()
    input_shape: Sequence[int] = dataclasses.field()
    strides: int | Sequence[int] = dataclasses.field(default=1, kw_only=True)
    padding: str = dataclasses.field(default="same", kw_only=True)
    dilation: int | Sequence[int] = dataclasses.field(default=1, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        axes = len(self.kernel_shape) if isinstance(self.kernel_shape, Sequence) else 0
        if axes not in (1, 2, 3):
            remedy = "pass one size for each spatial axis, such as (3, 3)"
            raise fail("kernel_shape", repr(self.kernel_shape), "1, 2 or 3 sizes", remedy)
        for name in ("kernel_shape", "input_shape", "strides", "dilation"):
            object.__setattr__(self, name, _sizes(name, getattr(self, name), axes))
        check_choice("padding", self.padding, ("same", "valid"))
        for name in ("peepholes", "projection_size"):
            if getattr(self, name):
                remedy = f"it has no {name}: leave it out"
                raise fail(name, getattr(self, name), "none in a ConvLSTM", remedy)
        if min(self.output_shape) < 1:
            remedy = 'pass padding="same" or a smaller kernel'
            raise fail("input_shape", self.input_shape, "at least the kernel's size", remedy)

    @property
    def input_ndim(self) -> int:
        """Number of feature axes of one input: the spatial axes and the channels."""
        return len(self.kernel_shape) + 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The sizes of the state and the output along the spatial axes."""
        sizes: Any = (self.input_shape, self.kernel_shape, self.strides, self.dilation)
        lost = self.padding == "valid"
        return tuple(-(-(n - lost * d * (k - 1)) // s) for n, k, s, d in zip(*sizes, strict=True))

    def init(self, key: Key, input_size: int) -> Params:
        """Draw {"w_ih" [*kernel_shape, D, 4H], "w_hh" [*kernel_shape, H, 4H], "b" [4H]}."""
        params = super().init(key, input_size)
        key_ih, key_hh = jax.random.split(jax.random.fold_in(key, 1))
        size, sizes = self.hidden_size, initializers.Sizes(input_size, self.hidden_size)

        def kernel(init: Initializer, key: Key, channels: int) -> Array:
            options: Any = {"window": self.kernel_shape, "sizes": sizes}
            gates, dtype = len(self.gate_names), params["w_ih"].dtype
            return initializers.blocks(init, key, channels, gates, size, dtype, **options)

        w_ih = kernel(self.w_ih_init, key_ih, input_size)
        return params | {"w_ih": w_ih, "w_hh": kernel(self.w_hh_init, key_hh, size)}

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> LSTMState:
        """The carry before the first step: zeros, each leaf [*batch_shape, *output_shape, H]."""
        check_start(params, batch_shape)
        return super().initial_carry(params, (*batch_shape, *self.output_shape))

    def project(self, params: Params, x: Array) -> Array:
        """Project inputs: wx = x (*) w_ih + b. -> [*batch, *output_shape, 4H]"""
        axes = len(self.kernel_shape)
        if x.shape[-1 - axes : -1] != self.input_shape:
            wanted = f"[T, *batch, *input_shape, D] with input_shape = {self.input_shape}"
            raise fail("xs", f"shape {x.shape}", wanted, "make the cell and its input agree")
        wx = self._convolve(x, params["w_ih"], self.strides, self.padding, self.dilation)
        return self.biased(params, wx)

    def recur(self, params: Params, carry: LSTMState) -> Array:
        """Compute u = h (*) w_hh. -> [*batch, *output_shape, 4H]"""
        ones = (1,) * len(self.kernel_shape)
        return self._convolve(carry.h, params["w_hh"], ones, "same", ones)

    def _convolve(self, x: Array, w: Array, strides: Any, padding: str, dilation: Any) -> Array:
        """Convolve x and w, for any number of batch axes, in the dtypes of `matmul`."""
        space = "DHW"[-len(self.kernel_shape) :]
        batch, shape = x.shape[: -1 - len(space)], x.shape[-1 - len(space) :]
        y = lax.conv_general_dilated(
            x.reshape(math.prod(batch), *shape).astype(w.dtype),
            w,
            strides,
            padding.upper(),
            rhs_dilation=dilation,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            preferred_element_type=self.accumulation(w.dtype),
        )
        return y.reshape(*batch, *y.shape[1:])


def _sizes(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """Convert `value` to one positive integer for each axis."""
    if name in ("strides", "dilation") and not isinstance(value, Sequence):
        value = (value,) * axes
    if not isinstance(value, Sequence) or len(value) != axes:
        wanted = f"{axes} sizes, as many as kernel_shape has"
        raise fail(name, repr(value), wanted, "pass one for each spatial axis")
    for size in value:
        check_positive_int(name, size)
    return tuple(int(size) for size in value)
