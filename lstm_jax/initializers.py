"""Initial weights and biases, one gate block at a time.

Every initializer is a frozen dataclass named in lower case: what it prints is what makes it, two of
the same arguments are equal and hash alike, so a cell that holds one stays a static jit argument.
Called as `init(key, shape, dtype)`, the form of `jax.nn.initializers`, whose functions therefore
work in their place.

A cell with G gates calls `blocks` for its matrices and `bias` for its biases. Both apply the
initializer to each gate alone (`[D, H]` for w_ih, `[H, H]` for w_hh, `(H,)` for b): the fans of the
whole `[D, G*H]` matrix count gates that share no unit, and a QR of it is orthogonal in no gate.
A `GateBias` sees all gates of b at once, because what it gives a gate depends on the gate's role.

All draw in float32 or wider and round once, so bfloat16 and float16 work everywhere.

Shape letters: D input, H hidden, G gates.
"""

from __future__ import annotations

import abc
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Initializer = Callable[..., Array]


# ---------------------------------------------------------------------------------- plain


@dataclass(frozen=True)
class zeros:
    """w = 0, of any shape."""

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        return jnp.zeros(tuple(shape), dtype)


@dataclass(frozen=True)
class constant:
    """w = value, of any shape."""

    value: float

    def __post_init__(self):
        _check_number("value", self.value)

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        return jnp.full(tuple(shape), float(self.value), dtype)


@dataclass(frozen=True)
class normal:
    """w ~ N(0, std^2), of any shape."""

    std: float = 0.01

    def __post_init__(self):
        _check_number("std", self.std, at_least=0)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        w = jax.random.normal(key, tuple(shape), _wide(dtype))
        return (float(self.std) * w).astype(dtype)


@dataclass(frozen=True)
class uniform:
    """w ~ U[low, bound]; bound=None is 1/sqrt(H), H = shape[-1], PyTorch's for every array.

    low=None is -bound. ValueError unless low <= bound, and for a low without a bound.
    """

    bound: float | None = None
    low: float | None = None

    def __post_init__(self):
        if self.low is not None:
            _check_number("low", self.low)
            if self.bound is None:
                raise ValueError(
                    f"bound: got None beside low={self.low}, wanted a number; pass both ends"
                )
        if self.bound is not None:
            at_least = 0 if self.low is None else float(self.low)
            _check_number("bound", self.bound, at_least=at_least)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        bound = 1 / math.sqrt(shape[-1]) if self.bound is None else float(self.bound)
        low = -bound if self.low is None else float(self.low)
        return jax.random.uniform(key, tuple(shape), _wide(dtype), low, bound).astype(dtype)


@dataclass(frozen=True)
class glorot_uniform:
    """w ~ U[-a, a], a = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_matrix(self, shape)
        return _in_wide(jax.nn.initializers.glorot_uniform(), key, shape, dtype)


@dataclass(frozen=True)
class glorot_normal:
    """Normal truncated at two deviations, variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_matrix(self, shape)
        return _in_wide(jax.nn.initializers.glorot_normal(), key, shape, dtype)


@dataclass(frozen=True)
class lecun_normal:
    """Normal truncated at two deviations, of variance 1 / fan_in (LeCun et al. 1998).

    Shape `[fan_in, fan_out]`; ValueError for fewer than two axes.
    """

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_matrix(self, shape)
        return _in_wide(jax.nn.initializers.lecun_normal(), key, shape, dtype)


# ---------------------------------------------------------------------------------- structured


@dataclass(frozen=True)
class orthogonal:
    """w = scale * Q, Q drawn from the Haar measure (Saxe et al. 2014; Mezzadri 2007).

    A QR of a Gaussian matrix whose R is turned to a positive diagonal; without that turn Q is
    orthogonal but not uniform. Shape `[m, n]`: w.T @ w = scale^2 I if m >= n, else
    w @ w.T = scale^2 I. ValueError for fewer than two axes.
    """

    scale: float = 1.0

    def __post_init__(self):
        _check_number("scale", self.scale)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_matrix(self, shape)
        # No platform has a QR in half precision, hence the wide dtype.
        return _in_wide(jax.nn.initializers.orthogonal(float(self.scale)), key, shape, dtype)


@dataclass(frozen=True)
class identity:
    """w = scale * I: the recurrent matrix of an IRNN (Le, Jaitly & Hinton 2015).

    Shape `[H, H]`; ValueError for any other.
    """

    scale: float = 1.0

    def __post_init__(self):
        _check_number("scale", self.scale)

    def __call__(self, key: Array | None, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        _check_square(self, shape)
        return (float(self.scale) * jnp.eye(shape[0], dtype=_wide(dtype))).astype(dtype)


@dataclass(frozen=True)
class spectral_radius:
    """w = rho * a / max|eig(a)|, a_ij ~ N(0, 1): a random matrix of exactly this spectral radius.

    `nonzeros` keeps that many incoming weights per unit (per column, as u = h @ w_hh) and zeroes
    the rest: `spectral_radius(0.95, nonzeros=15)` is the "smart tanh" start of Pascanu, Mikolov &
    Bengio 2013. None keeps all. Shape `[H, H]`; ValueError for any other, and for nonzeros > H.
    Eigenvalues are taken on the host, on every platform: it traces, but cannot be exported.
    """

    rho: float = 1.0
    nonzeros: int | None = None

    def __post_init__(self):
        _check_number("rho", self.rho, at_least=0)
        if self.nonzeros is not None and not (isinstance(self.nonzeros, int) and self.nonzeros > 0):
            raise ValueError(
                f"nonzeros: got {self.nonzeros!r}, wanted a positive int or None; "
                "pass nonzeros=None to keep every weight"
            )

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_square(self, shape)
        key_a, key_mask = jax.random.split(key)
        a = jax.random.normal(key_a, tuple(shape), _wide(dtype))
        if self.nonzeros is not None:
            a = jnp.where(_column_mask(key_mask, shape[0], self.nonzeros), a, 0)
        return (float(self.rho) / _max_abs_eigenvalue(a) * a).astype(dtype)


def _column_mask(key: Array, hidden_size: int, nonzeros: int) -> Array:
    """[H, H], True at `nonzeros` random rows of each column."""
    if nonzeros > hidden_size:
        raise ValueError(
            f"nonzeros: got {nonzeros}, wanted at most H = {hidden_size}; "
            "pass nonzeros=None to keep every weight"
        )
    rows = jnp.broadcast_to(jnp.arange(hidden_size)[:, None], (hidden_size, hidden_size))
    return jax.random.permutation(key, rows < nonzeros, axis=0, independent=True)


def _max_abs_eigenvalue(a: Array) -> Array:
    # jax.numpy has no eigenvalues of a non-symmetric matrix on every platform, so NumPy takes them;
    # through a callback, because `init` may be traced: jit, vmap over keys, eval_shape.
    out = jax.ShapeDtypeStruct(a.shape[:-2], a.dtype)
    return jax.pure_callback(_host_max_abs_eigenvalue, out, a, vmap_method="expand_dims")


def _host_max_abs_eigenvalue(a: Any) -> np.ndarray:
    eigenvalues = np.linalg.eigvals(np.asarray(a, np.float64))
    return np.abs(eigenvalues).max(-1).astype(a.dtype)


# ---------------------------------------------------------------------------------- gate-aware

# A gate's name fixes its role: c = f*c_tm1 + i*g for the LSTM and its kin, h = (1-z)*n + z*h_tm1
# for the GRU and its kin. So "f" and "z" keep the state, and "i" is what "f" is traded against.
_KEEP_GATES = ("f", "z")
_OPPOSITE = {"f": "i"}


class GateBias(abc.ABC):
    """An initial bias that depends on the role of each gate; for b alone, never for a matrix."""

    @abc.abstractmethod
    def gates(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        """The biases `[G*H]` of the gates called `names`, concatenated in that order."""


@dataclass(frozen=True)
class forget_bias(GateBias):
    """b = value in the keep gate ("f" of an LSTM, "z" of a GRU), 0 in the others.

    At zero input and state a kept value decays by f = sigmoid(value) a step (Gers et al. 2000;
    Jozefowicz et al. 2015 take 1). ValueError for a cell without a keep gate.
    """

    value: float = 1.0

    def __post_init__(self):
        _check_number("value", self.value)

    def gates(
        self, key: Array | None, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        del key
        b_keep = jnp.full(hidden_size, float(self.value), dtype)
        return _concatenate({_keep_gate(self, names): b_keep}, names, hidden_size, dtype)


@dataclass(frozen=True)
class chrono(GateBias):
    """b_f ~ log U[t_min - 1, t_max - 1], b_i = -b_f, others 0 (Tallec & Ollivier 2018, eq. 16).

    With f = sigmoid(b_f) the forgetting time 1/(1-f) = 1 + exp(b_f) is uniform on [t_min, t_max],
    in steps; t_min = 2 gives the paper's log U[1, t_max - 1]. A GRU keeps by "z" and trades it
    against 1-z inside the equation, so b_z ~ log U[...] and nothing else. Set t_max to the longest
    lag of the task. ValueError unless 1 < t_min <= t_max, and for a cell without a keep gate.
    """

    t_max: float
    t_min: float = 2.0

    def __post_init__(self):
        _check_number("t_min", self.t_min)
        _check_number("t_max", self.t_max)
        if not self.t_min > 1:
            raise ValueError(
                f"t_min: got {self.t_min}, wanted a number above 1; "
                "1/(1-f) > 1 for every gate, pass t_min=2 for the paper's range"
            )
        if not self.t_max >= self.t_min:
            raise ValueError(
                f"t_max: got {self.t_max}, wanted at least t_min = {self.t_min} steps; "
                "pass the longest lag of the task"
            )

    def gates(
        self, key: Array, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        keep = _keep_gate(self, names)
        low, high = float(self.t_min) - 1, float(self.t_max) - 1
        b_keep = jnp.log(jax.random.uniform(key, (hidden_size,), _wide(dtype), low, high))
        given = {keep: b_keep}
        if keep in _OPPOSITE:
            given[_OPPOSITE[keep]] = -b_keep
        return _concatenate(given, names, hidden_size, dtype)


@dataclass(frozen=True)
class power_law(GateBias):
    """b_f = longest + (shortest - longest) * (k / (H-1))^exponent at unit k, 0 in other gates.

    Units of every time scale, from 1/(1-sigmoid(longest)) steps on downwards: the start of xLSTM's
    forget gates (Beck et al. 2024), whose exponent grows from 0.3 in the first block to 1.6 in the
    last. ValueError for a number that is not finite, an exponent below 0, and for a cell without a
    keep gate.
    """

    exponent: float = 0.3
    longest: float = 5.0
    shortest: float = -7.0

    def __post_init__(self):
        _check_number("exponent", self.exponent, at_least=0)
        _check_number("longest", self.longest)
        _check_number("shortest", self.shortest)

    def gates(
        self, key: Array | None, names: Sequence[str], hidden_size: int, dtype: Any = jnp.float32
    ) -> Array:
        del key
        k = jnp.arange(hidden_size, dtype=_wide(dtype)) / max(hidden_size - 1, 1)
        spread = float(self.shortest) - float(self.longest)
        b_keep = float(self.longest) + spread * k ** float(self.exponent)
        return _concatenate({_keep_gate(self, names): b_keep}, names, hidden_size, dtype)


def _keep_gate(init: GateBias, names: Sequence[str]) -> str:
    for keep in _KEEP_GATES:
        if keep in names:
            return keep
    raise ValueError(
        f"init: got {init} for the gates {tuple(names)}, wanted a cell with a keep gate "
        f"(one of {_KEEP_GATES}); pass zeros() or another plain initializer"
    )


def _concatenate(
    given: dict[str, Array], names: Sequence[str], hidden_size: int, dtype: Any
) -> Array:
    b = [given.get(name, jnp.zeros(hidden_size, dtype)).astype(dtype) for name in names]
    return jnp.concatenate(b)


# ---------------------------------------------------------------------------------- for the cells


def bias(
    init: Initializer | GateBias,
    key: Array,
    names: Sequence[str],
    hidden_size: int,
    dtype: Any = jnp.float32,
) -> Array:
    """The biases `[G*H]` of the gates called `names`, in that order.

    A `GateBias` gives them jointly; a plain initializer is called once per gate with shape `(H,)`
    and a key of its own.
    """
    if isinstance(init, GateBias):
        return init.gates(key, names, hidden_size, dtype)
    keys = jax.random.split(key, len(names))
    return jnp.concatenate([_in_wide(init, k, (hidden_size,), dtype) for k in keys])


def blocks(
    init: Initializer,
    key: Array,
    fan_in: int,
    gates: int,
    hidden_size: int,
    dtype: Any = jnp.float32,
    window: Sequence[int] = (),
) -> Array:
    """A matrix `[fan_in, G*H]` of `gates` blocks `[fan_in, H]`, each drawn with a key of its own.

    fan_in is D for w_ih and H for w_hh. A `window` makes it the kernel of a convolution,
    `[*window, fan_in, G*H]`. ValueError for a `GateBias`, which is for biases.
    """
    if isinstance(init, GateBias):
        raise ValueError(
            f"init: got {init} for a matrix, wanted a plain initializer such as orthogonal(); "
            "gate biases set b alone"
        )
    keys = jax.random.split(key, gates)
    shape = (*window, fan_in, hidden_size)
    return jnp.concatenate([_in_wide(init, k, shape, dtype) for k in keys], axis=-1)


# ---------------------------------------------------------------------------------- helpers


def _wide(dtype: Any) -> Any:
    """The dtype to draw in: float32 for the half precisions, else `dtype`."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"dtype: got {jnp.dtype(dtype)}, wanted a real floating dtype; pass jnp.float32"
        )
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _in_wide(init: Initializer, key: Array, shape: Sequence[int], dtype: Any) -> Array:
    return init(key, tuple(shape), _wide(dtype)).astype(dtype)


def _check_number(name: str, value: Any, at_least: float = -math.inf) -> None:
    # A Python number, not an array: arrays do not hash, and then neither would the cell.
    if not isinstance(value, numbers.Real) or not at_least <= float(value) < math.inf:
        wanted = "a finite Python number" + (f" >= {at_least}" if at_least > -math.inf else "")
        raise ValueError(f"{name}: got {value!r}, wanted {wanted}; convert arrays with float()")


def _check_matrix(init: Initializer, shape: Sequence[int]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"shape: got {tuple(shape)} for {init}, wanted [fan_in, fan_out]; "
            "use zeros(), constant() or uniform() for biases"
        )


def _check_square(init: Initializer, shape: Sequence[int]) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"shape: got {tuple(shape)} for {init}, wanted [H, H]; "
            "use it for w_hh, and orthogonal() or glorot_uniform() for w_ih"
        )
