"""Cells that wrap other cells: regularisation, noise, clipping, a learned initial carry.

Each has the parameters and the carry of the wrapped cell (only a learned start adds parameters), so
that a wrapper can be added to or removed from a trained network. Noise of training is drawn once
for a whole sequence, from the key of `unroll`; evaluation takes its expectation.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    as_names,
    check_above_zero,
    check_flag_fields,
    check_range,
    check_rate,
    fail,
    shown,
    unboxed,
)
from .._clip import with_clipped_cotangent
from .._numerics import clipped, split_as
from .._typing import Array, Carry, DType, Key, Params, Pre
from .base import Cell, check_start
from .contract import Recurrent, updated


@dataclasses.dataclass(frozen=True)
class Wrapper(Recurrent):
    """Base class of cells around a cell; by itself it behaves like the wrapped cell.

    A subclass defines `draw`, to draw the noise of training, and `change`, to change the new carry.
    Everything else, including fields and `gates`, comes from the wrapped cell.
    """

    cell: Any

    def __post_init__(self):
        if not isinstance(self.cell, Recurrent):
            raise fail("cell", shown(self.cell), "a cell", "pass for example LSTM(128)")
        if self.cell.own_step:
            remedy = "define the cell by an update"
            raise fail(
                "cell",
                f"{type(self.cell).__name__}, which defines only step",
                "a cell with an update",
                remedy,
            )
        if _is_spread(self.cell) and not _is_spread(self):
            seen, remedy = type(self.cell).__name__, "wrap the cell first, then split it"
            raise fail("cell", seen, "a cell that is not split over devices", remedy)
        check_flag_fields(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "cell":
            raise AttributeError(name)
        return getattr(self.cell, name)

    # ---- a subclass may define ------------------------------------------------------------------
    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of this wrapper alone: (params, xs, noise), as `training`."""
        del key
        return params, xs, None

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """Change the cell's new carry, given the last one; noise is None in evaluation."""
        del carry, noise
        return new

    # ---- the interface --------------------------------------------------------------------------
    @property
    def stochastic(self) -> bool:
        """True if this wrapper or the wrapped cell draws noise in training."""
        own = type(self)
        drawn = own.draw is not Wrapper.draw or own.training is not Wrapper.training
        return drawn or self.cell.stochastic

    @property
    def factors(self) -> bool:
        """True if the wrapped cell factors."""
        return self.cell.factors

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the parameters of the wrapped cell."""
        return self.cell.init(key, input_size)

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The carry of the wrapped cell before the first step."""
        return self.cell.initial_carry(params, batch_shape)

    def project(self, params: Params, x: Array) -> Pre:
        """Project inputs as the wrapped cell does."""
        return self.cell.project(params, x)

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u as the wrapped cell does."""
        return self.cell.recur(params, carry)

    def extras(self, params: Params) -> Params:
        """The parameters that the wrapped cell's `update` takes as keywords."""
        return self.cell.extras(params)

    def weights(self, params: Params) -> Params:
        """The parameters that the wrapped cell's `recur` takes."""
        return self.cell.weights(params)

    def output(self, params: Params, carry: Carry) -> Array:
        """The output of the wrapped cell."""
        return self.cell.output(params, carry)

    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """The compute dtype of the wrapped cell."""
        return self.cell.compute_dtype(params, x)

    def carry_dtypes(self, compute: DType) -> Carry:
        """The dtypes of the wrapped cell's carry."""
        return self.cell.carry_dtypes(compute)

    def accumulation(self, dtype: DType) -> np.dtype:
        """The accumulation dtype of the wrapped cell."""
        return self.cell.accumulation(dtype)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of the wrapped cell and of this wrapper, with two keys."""
        key_cell, key = jax.random.split(key)
        params, xs, inner = self.cell.training(key_cell, params, xs)
        params, xs, own = self.draw(key, params, xs)
        return params, xs, None if own is None and inner is None else (own, inner)

    def update(self, carry: Carry, wx: Pre, u: Array, noise: Any = None, **extras: Any) -> Carry:
        """Apply `change` to the carry that the wrapped cell's `update` computes."""
        own, inner = (None, None) if noise is None else noise
        given = extras if inner is None else {**extras, "noise": inner}
        return self.change(carry, updated(self.cell, carry, wx, u, given), own)

    def following(self, params: Params, carry: Carry, wx: Pre, noise: Any = None) -> Carry:
        """Apply `change` to the carry that the wrapped cell's `following` computes."""
        if self.factors:
            return super().following(params, carry, wx, noise)
        own, inner = (None, None) if noise is None else noise
        return self.change(carry, self.cell.following(params, carry, wx, inner), own)

    # ---- helpers --------------------------------------------------------------------------------
    def by_leaf(self, first: Any, others: Any) -> Carry:
        """Make a carry with `first` as its first leaf and `others` as every other leaf."""
        return self.state(first, *[others] * (len(self.state._fields) - 1))

    def carry_shapes(self, params: Params, xs: Array) -> Carry:
        """Shapes [T, *batch, ...] and dtypes of the noise for each leaf of the carry."""
        axes = xs.shape[: xs.ndim - self.input_ndim]
        compute = self.compute_dtype(params, xs)
        leaves = jax.eval_shape(lambda: self.initial_carry(params, axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, compute), leaves)


def _is_spread(cell: Any) -> bool:
    """True if the cell runs a sequence in parts, on several devices."""
    return type(cell).whole is not Recurrent.whole


def _drawn(draw: Any, key: Key, shapes: Carry, amounts: Carry) -> Carry:
    """Call draw(key, shape, dtype, amount) for each leaf of nonzero amount; None for the others."""
    keys = jax.random.split(key, len(amounts))
    leaves = [
        draw(key, leaf.shape, leaf.dtype, amount) if amount else None
        for key, leaf, amount in zip(keys, shapes, amounts, strict=True)
    ]
    return type(shapes)(*leaves)


def mask(key: Key, shape: Sequence[int], dtype: DType, rate: float) -> Array:
    """Draw a dropout mask: 0 with probability `rate`, else 1 / (1 - rate)."""
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return kept.astype(dtype) / (1.0 - rate)


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """Zoneout: s_t = s_{t-1} with probability p, unit by unit, else the new s_t.

    In evaluation s_t = p * s_{t-1} + (1 - p) * new.

    Attributes:
        h: p of the first leaf of the carry.
        c: p of the other leaves.

    Source: Krueger et al. (2017), arXiv 1606.01305.
    """

    h: float = 0.0
    c: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_rate("h", self.h)
        check_rate("c", self.c)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw 1 for each unit and step that keeps its value, else 0."""

        def kept(key, shape, dtype, rate):
            return jax.random.bernoulli(key, rate, shape).astype(dtype)

        rates = self.by_leaf(self.h, self.c)
        return params, xs, _drawn(kept, key, self.carry_shapes(params, xs), rates)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """Mix the last carry and the new one."""
        rates = self.by_leaf(self.h, self.c)
        if noise is None:
            noise = rates
        leaves = [
            new_leaf if not rate else _mix(kept, old, new_leaf)
            for rate, kept, old, new_leaf in zip(rates, noise, carry, new, strict=True)
        ]
        return type(new)(*leaves)


def _mix(share: Any, old: Array, new: Array) -> Array:
    """Compute share * old + (1 - share) * new; a share of 0 or 1 drops the other, NaN too."""
    share = split_as(jnp.broadcast_to(jnp.asarray(share, new.dtype), new.shape), new)
    old = old.astype(new.dtype)
    mixed = share * old + (1 - share) * new
    return jnp.where(share == 1, old, jnp.where(share == 0, new, mixed))


@dataclasses.dataclass(frozen=True)
class RecurrentDropout(Wrapper):
    """Recurrent dropout: u_t = (h_{t-1} * m) @ w_hh, one mask m for all steps of a sequence.

    Attributes:
        rate: the probability that an element of m is zero; the others are 1 / (1 - rate).
        per_gate: True draws a mask for each gate, as Keras does.

    Source: Gal & Ghahramani (2016), arXiv 1512.05287.
    """

    rate: float = 0.0
    per_gate: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)
        name = type(self.cell).__name__
        if not self.cell.factors:
            remedy = "it feeds its state to a second matmul; use zoneout"
            raise fail("cell", f"{name}, which does not factor", "a cell that factors", remedy)
        if self.per_gate and (type(self.cell).recur is not Cell.recur or self.cell.heads > 1):
            remedy = f"{name} has a recurrence of its own: pass per_gate=False"
            raise fail("per_gate", True, "a cell with one matrix w_hh", remedy)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the mask [*batch, H], or [G, *batch, H], into the parameters."""
        if not self.rate:
            return params, xs, None
        leaf = self.carry_shapes(params, xs)[0]
        gates = (len(self.gate_names),) if self.per_gate else ()
        drawn = mask(key, (*gates, *leaf.shape[1:]), leaf.dtype, self.rate)
        return {**params, "recurrent_dropout": drawn}, xs, None

    def weights(self, params: Params) -> Params:
        """The parameters that `recur` takes: those of the wrapped cell, and the mask."""
        masks = {name: params[name] for name in ("recurrent_dropout",) if name in params}
        return {**self.cell.weights(params), **masks}

    def recur(self, params: Params, carry: Carry) -> Array:
        """Compute u from the masked h."""
        if "recurrent_dropout" not in params:
            return self.cell.recur(params, carry)
        drawn = params["recurrent_dropout"].astype(carry[0].dtype)
        if not self.per_gate:
            return self.cell.recur(params, _with_first(carry, carry[0] * drawn))
        blocks = jnp.split(params["w_hh"], len(self.gate_names), axis=1)
        parts = [
            self.cell.recur({"w_hh": block}, _with_first(carry, carry[0] * m))
            for block, m in zip(blocks, drawn, strict=True)
        ]
        return jnp.concatenate(parts, axis=-1)


def _with_first(carry: Carry, leaf: Array) -> Carry:
    return type(carry)(leaf, *carry[1:])


@dataclasses.dataclass(frozen=True)
class MemoryDropout(Wrapper):
    """Memory dropout: a mask on the candidate (g of an LSTM, n of a GRU), not on the kept state.

        c_t = f_t * c_{t-1} + i_t * (g_t * m)          h_t = (1 - z_t) * (n_t * m) + z_t * h_{t-1}

    Attributes:
        rate: the probability that an element of m is zero; the others are 1 / (1 - rate).
        variational: True: one m for all steps of a sequence; False: a new m at each step.

    Source: Semeniuta, Severyn & Barth (2016), arXiv 1603.05118.
    """

    rate: float = 0.0
    variational: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)
        if not isinstance(self.cell, Cell) or not self.cell.candidate or not self.cell.factors:
            seen, remedy = (
                type(self.cell).__name__,
                "apply memory_dropout first, to the cell itself",
            )
            wanted = "a plain cell that has a candidate, as LSTM and GRU"
            raise fail("cell", seen, wanted, remedy)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the mask of every step, as the noise of the wrapped cell."""
        shape = (*xs.shape[: xs.ndim - self.input_ndim], *self._candidate_shape(params))
        drawn = mask(key, (1, *shape[1:]) if self.variational else shape, xs.dtype, self.rate)
        return params, xs, (None, jnp.broadcast_to(drawn, shape))

    def _candidate_shape(self, params: Params) -> tuple[int, ...]:
        """The shape of the candidate, that of the last leaf of the carry."""
        return jax.eval_shape(lambda: self.initial_carry(params))[-1].shape


@dataclasses.dataclass(frozen=True)
class InputDropout(Wrapper):
    """Input dropout: wx_t = (x_t * m) @ w_ih + b.

    Attributes:
        rate: the probability that an element of m is zero; the others are 1 / (1 - rate).
        variational: True: one m for all steps of a sequence; False: a new m at each step.

    Source: Gal & Ghahramani (2016), arXiv 1512.05287.
    """

    rate: float = 0.0
    variational: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw a mask and apply it to the inputs."""
        shape = (1, *xs.shape[1:]) if self.variational else xs.shape
        drawn = split_as(jnp.broadcast_to(mask(key, shape, xs.dtype, self.rate), xs.shape), xs)
        return params, jnp.where(drawn == 0, jnp.zeros_like(xs), xs * drawn), None


@dataclasses.dataclass(frozen=True)
class WeightDrop(Wrapper):
    """DropConnect: weights are zero with probability `rate`, else divided by 1 - rate.

    One mask holds for a whole sequence.

    Attributes:
        rate: the probability that a weight is zero.
        names: the names of the parameters to mask.

    Source: DropConnect (Wan et al. 2013) on w_hh: Merity, Keskar & Socher (2018), arXiv 1708.02182.
    """

    rate: float = 0.0
    names: tuple[str, ...] = ("w_hh",)

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)
        object.__setattr__(self, "names", as_names("names", self.names))

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw a mask and apply it to the parameters."""
        unknown = set(self.names) - set(params)
        if unknown:
            remedy = f"name some of {sorted(params)}"
            raise fail("names", sorted(unknown), "names of parameters", remedy)
        keys = jax.random.split(key, len(self.names))
        masked = {
            name: params[name] * mask(k, params[name].shape, params[name].dtype, self.rate)
            for name, k in zip(self.names, keys, strict=True)
        }
        return {**params, **masked}, xs, None


@dataclasses.dataclass(frozen=True)
class StateNoise(Wrapper):
    """Noise on the state, in training: s_t = new + sigma * N(0, 1).

    Attributes:
        h: sigma of the first leaf of the carry.
        c: sigma of the other leaves.
    """

    h: float = 0.0
    c: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_range("h", self.h, 0)
        check_range("c", self.c, 0)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """Draw the noise of every step."""

        def normal(key, shape, dtype, sigma):
            return sigma * jax.random.normal(key, shape, dtype)

        sigmas = self.by_leaf(self.h, self.c)
        return params, xs, _drawn(normal, key, self.carry_shapes(params, xs), sigmas)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """Add the noise to the new carry."""
        if noise is None:
            return new
        pairs = zip(new, noise, strict=True)
        return type(new)(*[s if n is None else s + n.astype(s.dtype) for s, n in pairs])


@dataclasses.dataclass(frozen=True)
class ClipState(Wrapper):
    """Clipping of the state, in training and evaluation: s_t = min(max(new, -limit), limit).

    Attributes:
        h: limit of the first leaf of the carry; None: no limit.
        c: limit of the other leaves (cuDNN's `RNNClip`, the cell clip of Sak et al. 2014).
    """

    h: float | None = None
    c: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, limit in (("h", self.h), ("c", self.c)):
            if limit is not None:
                check_above_zero(name, limit)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """Clip the new carry."""
        pairs = zip(new, self.by_leaf(self.h, self.c), strict=True)
        return type(new)(*[s if m is None else clipped(s, m) for s, m in pairs])


@dataclasses.dataclass(frozen=True)
class ClipCotangents(Wrapper):
    """Clipping of the cotangents of wx_t and u_t to [-limit, limit] at each step.

    As the clip acts inside the recurrence, the gradient is biased but cannot explode. Values and
    forward-mode derivatives do not change.

    Source: Graves (2013), arXiv 1308.0850, section 2.1.
    """

    limit: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_above_zero("limit", self.limit)
        if not self.cell.factors:
            remedy = "wrap one that factors into project, recur and update"
            raise fail("cell", type(self.cell).__name__, "a cell that factors", remedy)

    def update(self, carry: Carry, wx: Pre, u: Array, noise: Any = None, **extras: Any) -> Carry:
        """Call the wrapped cell's `update` with wx and u whose cotangents are clipped."""
        wx, u = jax.tree.map(partial(with_clipped_cotangent, limit=self.limit), (wx, u))
        return super().update(carry, wx, u, noise, **extras)


@dataclasses.dataclass(frozen=True)
class LearnedStart(Wrapper):
    """Learned initial carry: a parameter for each leaf, which a reset restores too.

    Parameters: those of the wrapped cell, and "start_<leaf>", with the shape of the leaf without
    batch axes; initially the initial carry of the wrapped cell.
    """

    def init(self, key: Key, input_size: int) -> Params:
        """Draw the wrapped cell's parameters, and add its initial carry as "start_<leaf>"."""
        params = self.cell.init(key, input_size)
        dtype = params["w_ih"].dtype
        start = self.cell.initial_carry(params)._asdict()
        return params | {f"start_{name}": leaf.astype(dtype) for name, leaf in start.items()}

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The learned carry before the first step, for every sequence."""
        check_start(params, batch_shape)
        dtypes = self.types_of_carry(params)
        leaves = [
            jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)).astype(dtype)
            for leaf, dtype in zip(self._start(params), dtypes, strict=True)
        ]
        return self.state(*leaves)

    def _start(self, params: Params) -> list[Array]:
        params = unboxed(params)
        names = [f"start_{name}" for name in self.state._fields]
        if not set(names) <= set(params):
            remedy = "pass what init of the wrapped cell gives"
            raise fail("params", sorted(params), f"{' '.join(names)} too", remedy)
        return [params[name] for name in names]
