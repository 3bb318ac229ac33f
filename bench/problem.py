"""A problem: the network of a case, with its weights and data as NumPy arrays.

All contenders get the same numbers. Weights are uniform in [-1/sqrt(H), 1/sqrt(H)], as in PyTorch;
but b_hn, a GRU's bias that the reset gate multiplies, is zero, since flax.nnx has none. xs are
standard normal. The tangents of mode "jvp" are drawn likewise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax as lj

from . import own
from .cases import Case


@dataclasses.dataclass(frozen=True)
class Problem:
    """The network and the data for every contender.

    Attributes:
        case: the case.
        net: the cell or net of lstm_jax.
        params, d_params: its weights and their tangents.
        xs, d_xs: inputs and their tangents, [T, B, D].
        lengths: [B] integers, or None.
        resets: [T, B] bool, or None.
    """

    case: Case
    net: Any
    params: Any
    d_params: Any
    xs: np.ndarray
    d_xs: np.ndarray
    lengths: np.ndarray | None
    resets: np.ndarray | None
    _kept: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def on_device(self, name: str, batch_major: bool) -> jax.Array:
        """`xs` or `d_xs` on the device, cached: [B, T, D] or [T, B, D]."""
        array = getattr(self, name)
        if (name, batch_major) not in self._kept:
            array = np.swapaxes(array, 0, 1) if batch_major else array
            self._kept[name, batch_major] = jax.block_until_ready(jax.device_put(array))
        return self._kept[name, batch_major]

    @property
    def steps(self) -> int:
        """Number of valid steps: T * B, or the sum of the lengths."""
        return self.case.T * self.case.B if self.lengths is None else int(self.lengths.sum())

    @property
    def mask(self) -> np.ndarray:
        """Mask of the valid steps, [T, B] bool."""
        T, B = self.case.T, self.case.B
        lengths = np.full(B, T) if self.lengths is None else self.lengths
        return np.arange(T)[:, None] < lengths


def make(case: Case, seed: int = 0) -> Problem:
    """Make the problem of a case, determined by the seed."""
    rng = np.random.default_rng(seed)
    net = net_of(case)
    shapes = jax.eval_shape(lambda key: net.init(key, case.input_size), jax.random.key(0))
    dtype, size = np.dtype(case.dtype), (case.T, case.B, case.input_size)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        bound = 0.0 if "b_hn" in jax.tree_util.keystr(path) else case.H**-0.5
        return rng.uniform(-bound, bound, leaf.shape).astype(dtype)

    params, d_params = (jax.tree_util.tree_map_with_path(drawn, shapes) for _ in range(2))
    xs, d_xs = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    return Problem(
        case=case,
        net=net,
        params=params,
        d_params=d_params,
        xs=xs,
        d_xs=d_xs,
        lengths=_lengths(case, rng),
        resets=rng.random(size[:2]) < case.resets if case.resets else None,
    )


def _lengths(case: Case, rng: np.random.Generator) -> np.ndarray | None:
    """Draw lengths uniformly from [T/4, T]; one of them is T."""
    if not case.ragged:
        return None
    lengths = rng.integers(max(1, case.T // 4), case.T + 1, case.B).astype(np.int32)
    lengths[0] = case.T
    return lengths


# ---- the network ---------------------------------------------------------------------------------
def net_of(case: Case) -> Any:
    """Make the cell, or the stack of layers in one or both directions."""
    options: dict[str, Any] = {"heads": case.heads} if case.heads > 1 else {}
    kinds: dict[str, Any] = {"rnn": lj.RNN, "rnn_relu": lj.RNN, "lstm": lj.LSTM, "gru": lj.GRU}
    kinds |= {"min_gru": lj.MinGRU, "own_summed": own.Summed, "own_apart": own.Apart}
    if case.cell == "rnn_relu":
        options["activation"] = "relu"
    kind = kinds[case.cell]
    cell = (kind if case.inputs == "linear" else without_matmul(kind, case))(case.H, **options)
    layer = lj.bidirectional(cell) if case.bidirectional else cell
    return layer if case.L == 1 else lj.stack(*[layer] * case.L)


def without_matmul(kind: Any, case: Case) -> Any:
    """Subclass `kind` without the input matmul: wx is x, or with "skip" x for each gate."""
    copies = case.G if case.inputs == "skip" else 1

    class Bare(kind):
        def init(self, key, input_size):
            params = super().init(key, input_size)
            return {name: leaf for name, leaf in params.items() if name != "w_ih"}

        def project(self, params, x):
            wx = jnp.concatenate([x] * copies, axis=-1)
            for bias in self.biases(params):
                wx = wx + jnp.broadcast_to(bias, wx.shape)
            return wx

    return Bare
