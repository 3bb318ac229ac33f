"""Cells around other cells: regularisation, noise, clipping, a start that is learned.

Each has the parameters and the carry of the cell inside (a learned start and nothing else adds
parameters), so that it can be put on and taken off a trained network. What it draws in training it
draws once for a whole sequence, from `unroll`'s key alone; in evaluation it takes the expectation.
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
)
from .._clip import with_clipped_cotangent
from .._numerics import clipped
from .._typing import Array, Carry, DType, Key, Params, Pre
from .base import Cell, check_start
from .contract import Recurrent, unboxed


@dataclasses.dataclass(frozen=True)
class Wrapper(Recurrent):
    """Base of the cells around a cell; as it stands it changes nothing.

    A subclass writes `draw`, what training draws, and `change`, what becomes of the new carry.
    Everything else, the cell's fields and `gates` included, is the cell's own.
    """

    cell: Any

    def __post_init__(self):
        if not isinstance(self.cell, Recurrent):
            raise fail("cell", shown(self.cell), "a cell", "pass such as LSTM(128)")
        if self.cell._own_step:
            remedy = "write the cell as an update"
            raise fail("cell", f"{type(self.cell).__name__}, a whole step", "an update", remedy)
        check_flag_fields(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "cell":
            raise AttributeError(name)
        return getattr(self.cell, name)

    # ---- what a subclass may write --------------------------------------------------------------
    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """As `training`, for this wrapper alone."""
        del key
        return params, xs, None

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """The carry, of the one before and the cell's new one; noise is None in evaluation."""
        del carry, noise
        return new

    # ---- the contract ---------------------------------------------------------------------------
    @property
    def factors(self) -> bool:
        """As the cell inside."""
        return self.cell.factors

    def init(self, key: Key, input_size: int) -> Params:
        """The cell's own."""
        return self.cell.init(key, input_size)

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The cell's own."""
        return self.cell.initial_carry(params, batch_shape)

    def project(self, params: Params, x: Array) -> Pre:
        """The cell's own."""
        return self.cell.project(params, x)

    def recur(self, params: Params, carry: Carry) -> Array:
        """The cell's own."""
        return self.cell.recur(params, carry)

    def extras(self, params: Params) -> Params:
        """The cell's own."""
        return self.cell.extras(params)

    def weights(self, params: Params) -> Params:
        """The cell's own."""
        return self.cell.weights(params)

    def output(self, params: Params, carry: Carry) -> Array:
        """The cell's own."""
        return self.cell.output(params, carry)

    def compute_dtype(self, params: Params, x: Array | None = None) -> np.dtype:
        """The cell's own."""
        return self.cell.compute_dtype(params, x)

    def carry_dtypes(self, compute: DType) -> Carry:
        """The cell's own."""
        return self.cell.carry_dtypes(compute)

    def accumulation(self, dtype: DType) -> np.dtype:
        """The cell's own."""
        return self.cell.accumulation(dtype)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """What the cell draws and what this wrapper draws, each from a key of its own."""
        key_cell, key = jax.random.split(key)
        params, xs, inner = self.cell.training(key_cell, params, xs)
        params, xs, own = self.draw(key, params, xs)
        return params, xs, None if own is None and inner is None else (own, inner)

    def update(self, carry: Carry, wx: Pre, u: Array, noise: Any = None, **extras: Any) -> Carry:
        """The cell's own, `change`d."""
        own, inner = (None, None) if noise is None else noise
        given = extras if inner is None else {**extras, "noise": inner}
        return self.change(carry, self.cell.update(carry, wx, u, **given), own)

    def following(self, params: Params, carry: Carry, wx: Pre, noise: Any = None) -> Carry:
        """The cell's own, `change`d."""
        if self.factors:
            return super().following(params, carry, wx, noise)
        own, inner = (None, None) if noise is None else noise
        return self.change(carry, self.cell.following(params, carry, wx, inner), own)

    # ---- helpers --------------------------------------------------------------------------------
    def by_leaf(self, first: Any, others: Any) -> Carry:
        """`first` for carry[0], `others` for the rest, in the carry's structure."""
        return self.state(first, *[others] * (len(self.state._fields) - 1))

    def carry_shapes(self, params: Params, xs: Array) -> Carry:
        """Shapes [T, *batch, ...] and dtypes of what is drawn for each leaf of the carry."""
        axes = xs.shape[: xs.ndim - self.input_ndim]
        compute = self.compute_dtype(params, xs)
        leaves = jax.eval_shape(lambda: self.initial_carry(params, axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, compute), leaves)


def _drawn(draw: Any, key: Key, shapes: Carry, amounts: Carry) -> Carry:
    """draw(key, shape, dtype, amount) for each leaf whose amount is not zero, else None."""
    keys = jax.random.split(key, len(amounts))
    leaves = [
        draw(key, leaf.shape, leaf.dtype, amount) if amount else None
        for key, leaf, amount in zip(keys, shapes, amounts, strict=True)
    ]
    return type(shapes)(*leaves)


def mask(key: Key, shape: Sequence[int], dtype: DType, rate: float) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate)."""
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return kept.astype(dtype) / (1.0 - rate)


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """s_t = s_{t-1} with probability p, unit by unit, else the cell's new s_t.

    In evaluation s_t = p * s_{t-1} + (1 - p) * new.

    Attributes:
        h: p of the first leaf of the carry.
        c: p of the others.

    Source: Krueger et al. (2017), arXiv 1606.01305.
    """

    h: float = 0.0
    c: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_rate("h", self.h)
        check_rate("c", self.c)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """A flag for each unit and step: 1 where it keeps its value."""

        def kept(key, shape, dtype, rate):
            return jax.random.bernoulli(key, rate, shape).astype(dtype)

        rates = self.by_leaf(self.h, self.c)
        return params, xs, _drawn(kept, key, self.carry_shapes(params, xs), rates)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """Old and new, mixed."""
        rates = self.by_leaf(self.h, self.c)
        if noise is None:
            noise = rates
        leaves = [
            new_leaf if not rate else _mix(kept, old, new_leaf)
            for rate, kept, old, new_leaf in zip(rates, noise, carry, new, strict=True)
        ]
        return type(new)(*leaves)


def _mix(share: Any, old: Array, new: Array) -> Array:
    """share * old + (1 - share) * new; a share of exactly 0 or 1 leaves the other one out."""
    share = jnp.broadcast_to(jnp.asarray(share, new.dtype), new.shape)
    old = old.astype(new.dtype)
    mixed = share * old + (1 - share) * new
    return jnp.where(share == 1, old, jnp.where(share == 0, new, mixed))


@dataclasses.dataclass(frozen=True)
class RecurrentDropout(Wrapper):
    """u_t = (h_{t-1} * m) @ w_hh with one mask m for all time steps of a sequence.

    Attributes:
        rate: the probability that a unit of m is zero; the others are 1 / (1 - rate).
        per_gate: a mask for each gate, as Keras has them, in place of one for all.

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
        """The mask [*batch, H], or [G, *batch, H], beside the parameters."""
        if not self.rate:
            return params, xs, None
        leaf = self.carry_shapes(params, xs)[0]
        gates = (len(self.gate_names),) if self.per_gate else ()
        drawn = mask(key, (*gates, *leaf.shape[1:]), leaf.dtype, self.rate)
        return {**params, "recurrent_dropout": drawn}, xs, None

    def weights(self, params: Params) -> Params:
        """The cell's own, and the mask."""
        masks = {name: params[name] for name in ("recurrent_dropout",) if name in params}
        return {**self.cell.weights(params), **masks}

    def recur(self, params: Params, carry: Carry) -> Array:
        """The cell's own, of the masked h."""
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
    """Dropout on what is written to the memory (g of an LSTM, n of a GRU), not on what it holds.

        c_t = f_t * c_{t-1} + i_t * (g_t * m)          h_t = (1 - z_t) * (n_t * m) + z_t * h_{t-1}

    Attributes:
        rate: the probability that a number of m is zero; the others are 1 / (1 - rate).
        variational: one m for all time steps of a sequence; False: a new one each step.

    Source: Semeniuta, Severyn & Barth (2016), arXiv 1603.05118.
    """

    rate: float = 0.0
    variational: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)
        if not isinstance(self.cell, Cell) or not self.cell.candidate or not self.cell.factors:
            seen, remedy = type(self.cell).__name__, "wrap the cell itself, and first"
            wanted = "a plain cell that has a candidate, as LSTM and GRU"
            raise fail("cell", seen, wanted, remedy)

    def training(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """The mask of every step: the noise of the cell itself."""
        shape = (*xs.shape[: xs.ndim - self.input_ndim], *self._candidate_shape(params))
        drawn = mask(key, (1, *shape[1:]) if self.variational else shape, xs.dtype, self.rate)
        return params, xs, (None, jnp.broadcast_to(drawn, shape))

    def _candidate_shape(self, params: Params) -> tuple[int, ...]:
        """That of the last leaf of the carry: c, or the only one."""
        return jax.eval_shape(lambda: self.initial_carry(params))[-1].shape


@dataclasses.dataclass(frozen=True)
class InputDropout(Wrapper):
    """wx_t = (x_t * m) @ w_ih + b.

    Attributes:
        rate: the probability that a number of m is zero; the others are 1 / (1 - rate).
        variational: one m for all time steps of a sequence; False: a new one each step.

    Source: Gal & Ghahramani (2016), arXiv 1512.05287.
    """

    rate: float = 0.0
    variational: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """The inputs, masked."""
        shape = (1, *xs.shape[1:]) if self.variational else xs.shape
        drawn = jnp.broadcast_to(mask(key, shape, xs.dtype, self.rate), xs.shape)
        return params, jnp.where(drawn == 0, jnp.zeros_like(xs), xs * drawn), None


@dataclasses.dataclass(frozen=True)
class WeightDrop(Wrapper):
    """Weights that are zero with probability `rate`, the others over 1 - rate; one draw a call.

    Attributes:
        rate: the probability.
        names: of the parameters.

    Source: DropConnect (Wan et al. 2013) on w_hh: Merity, Keskar & Socher (2018), arXiv 1708.02182.
    """

    rate: float = 0.0
    names: tuple[str, ...] = ("w_hh",)

    def __post_init__(self):
        super().__post_init__()
        check_rate("rate", self.rate)
        object.__setattr__(self, "names", as_names("names", self.names))

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """The parameters, masked."""
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
    """s_t = new + sigma * N(0, 1), in training.

    Attributes:
        h: sigma of the first leaf of the carry.
        c: sigma of the others.
    """

    h: float = 0.0
    c: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_range("h", self.h, 0)
        check_range("c", self.c, 0)

    def draw(self, key: Key, params: Params, xs: Array) -> tuple[Params, Array, Any]:
        """The noise of every step."""

        def normal(key, shape, dtype, sigma):
            return sigma * jax.random.normal(key, shape, dtype)

        sigmas = self.by_leaf(self.h, self.c)
        return params, xs, _drawn(normal, key, self.carry_shapes(params, xs), sigmas)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """The noise added."""
        if noise is None:
            return new
        pairs = zip(new, noise, strict=True)
        return type(new)(*[s if n is None else s + n.astype(s.dtype) for s, n in pairs])


@dataclasses.dataclass(frozen=True)
class ClipState(Wrapper):
    """s_t = min(max(new, -limit), limit), in training and evaluation.

    Attributes:
        h: limit of the first leaf of the carry; None: none.
        c: limit of the others (cuDNN's `RNNClip`, the cell clip of Sak et al. 2014).
    """

    h: float | None = None
    c: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, limit in (("h", self.h), ("c", self.c)):
            if limit is not None:
                check_above_zero(name, limit)

    def change(self, carry: Carry, new: Carry, noise: Any) -> Carry:
        """The new carry, clipped."""
        pairs = zip(new, self.by_leaf(self.h, self.c), strict=True)
        return type(new)(*[s if m is None else clipped(s, m) for s, m in pairs])


@dataclasses.dataclass(frozen=True)
class ClipCotangents(Wrapper):
    """The loss's derivative by each step's wx_t and u_t, clipped to [-limit, limit] on the way.

    Not a derivative any more, but a biased one that cannot explode: the clip acts inside the
    recurrence, at every step. Values and forward-mode derivatives are the cell's own.

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
        """The cell's own, behind the clip."""
        wx, u = jax.tree.map(partial(with_clipped_cotangent, limit=self.limit), (wx, u))
        return super().update(carry, wx, u, noise, **extras)


@dataclasses.dataclass(frozen=True)
class LearnedStart(Wrapper):
    """carry_0 = start, a parameter for each leaf of the carry, in place of the cell's own.

    Parameters: the cell's, and "start_<leaf>", each of the leaf's shape without batch axes. A reset
    goes back to it too.
    """

    def init(self, key: Key, input_size: int) -> Params:
        """The cell's parameters, and the cell's own start."""
        params = self.cell.init(key, input_size)
        dtype = params["w_ih"].dtype
        start = self.cell.initial_carry(params)._asdict()
        return params | {f"start_{name}": leaf.astype(dtype) for name, leaf in start.items()}

    def initial_carry(self, params: Params, batch_shape: Sequence[int] = ()) -> Carry:
        """The start, for every sequence."""
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
