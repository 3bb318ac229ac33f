"""The registry of cells and implementations, over which tests are parametrised.

Add a new cell or implementation here; `test_registry.py` fails until you do. Two cells are like a
user's own: one defined by an `update`, one by a `step`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax._numerics import row, sigmoid
from lstm_jax._recurrence import engines, equations
from lstm_jax._recurrence.engines import cuda, pallas_tpu
from lstm_jax._recurrence.engines.cuda import device as cuda_device
from lstm_jax._recurrence.engines.cuda import emulation, plan
from lstm_jax._recurrence.engines.native import library
from lstm_jax._recurrence.engines.pallas_tpu import contacts
from lstm_jax._recurrence.inferred import recurrence_of

NO_KERNEL = library.why_not() or (
    None if jax.default_backend() == "cpu" else f"these tests run on a {jax.default_backend()}"
)
"""The reason why "native" cannot be tested; None if it can."""


class MemoryState(NamedTuple):
    """The carry of `Memory`, with a structure that no cell of the library has."""

    h: jax.Array
    m: jax.Array


@dataclasses.dataclass(frozen=True)
class Memory(lj.Cell):
    """A user's cell defined by an `update`, with everything that a user may add.

        k_t = sigmoid(x_k + u_k + p * m_{t-1})
        m_t = k_t * m_{t-1} + (1 - k_t) * tanh(x_v + x_v * u_v)
        h_t = tanh(m_t + p),   y_t = h_t - m_t / 2

    It has two gates, a parameter p inside the update, wx and u that do not enter as a sum, an
    output that is not h, and a learned initial m_0 (so a restart has a gradient).
    """

    gate_names = ("k", "v")
    state = MemoryState
    elementwise = ("p",)

    def init(self, key, input_size):
        params = super().init(key, input_size)
        start = jnp.full(self.hidden_size, 0.5, params["b"].dtype)
        return params | {"p": start, "m_0": start}

    def initial_carry(self, params, batch_shape=()):
        h, m = super().initial_carry(params, batch_shape)
        return MemoryState(h, m + row(params["m_0"], m))

    def update(self, carry, wx, u, p):
        x_k, x_v = jnp.split(wx, 2, axis=-1)
        u_k, u_v = jnp.split(u, 2, axis=-1)
        p = row(p, carry.m)
        k = sigmoid(x_k + u_k + p * carry.m)
        m = k * carry.m + (1 - k) * jnp.tanh(x_v + x_v * u_v)
        return MemoryState(jnp.tanh(m + p), m)

    def output(self, params, carry):
        return carry.h - 0.5 * carry.m


@dataclasses.dataclass(frozen=True)
class Multiplicative(lj.Cell):
    """A user's cell defined by a `step`, as it has two matmuls in a row.

    h_t = tanh((x_t w_ih * h_{t-1} w_hh) w_mh + x_t w_ih + b)
    """

    def init(self, key, input_size):
        params = super().init(key, input_size)
        return params | {"w_mh": params["w_hh"] + 0.5}

    def step(self, params, carry, x):
        params, x, carry = self.prepare(params, x, carry)
        x_h = self.matmul(x, params["w_ih"])
        preact = self.matmul(x_h * self.matmul(carry.h, params["w_hh"]), params["w_mh"])
        h = jnp.tanh(preact + x_h + row(params["b"], x_h))
        return lj.State(h.astype(carry.h.dtype)), h.astype(x.dtype)


def around(wrapper: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function `make` of a wrapped LSTM."""
    return lambda size, **kw: wrapper(lj.LSTM(size, **kw), **options)


def around_gru_before(wrapper: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function `make` of a wrapped cell that does not factor."""
    return lambda size, **kw: wrapper(lj.GRU(size, reset_after=False, **kw), **options)


def memory_dropout_gru(size: int, **kw: Any) -> Any:
    """Memory dropout, one mask for a sequence, around a cell with layer normalisation."""
    return lj.memory_dropout(lj.LayerNormGRU(size, **kw), rate=0.4, variational=True)


def wrapped_thrice(size: int, **kw: Any) -> Any:
    """Nested wrappers, each with its own noise."""
    inner = lj.recurrent_dropout(lj.state_noise(lj.GRU(size, **kw), h=0.1), rate=0.3)
    return lj.zoneout(lj.learned_start(inner), h=0.2)


def deep(size: int, **kw: Any) -> Any:
    """Bidirectional layers with two kinds of merge."""
    first = lj.bidirectional(lj.GRU(size, **kw), lj.RNN(size, **kw))
    return lj.stack(first, lj.bidirectional(lj.LSTM(size, **kw), merge="mean"))


def functions(size: int, **kw: Any) -> Any:
    """Dense layers and functions before, between and after cells; f(0) is not 0."""
    layers = lj.dense(3), jax.nn.softplus, lj.LSTM(size, **kw), jnp.tanh, lj.dense(2, bias=False)
    return lj.stack(*layers, jax.nn.softplus)


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of the registry.

    Attributes:
        name: the test id.
        make: `make(hidden_size, **dtypes)` returns the cell.
        smooth: False if it has a kink, which a central difference must not straddle.
        twin: True if it differs from another case by one line only; expensive tests of it are
            marked slow.
        extra: True if tests over all cells mark it slow; `test_every_cell.py` checks it in few
            compilations.
        noisy: True if a key changes its outputs.
        biased: True if its reverse mode is not a derivative, on purpose.
    """

    name: str
    make: Callable[..., lj.Cell]
    smooth: bool = True
    twin: bool = False
    extra: bool = False
    noisy: bool = False
    biased: bool = False

    @property
    def implementations(self) -> tuple[str, ...]:
        """The implementations that can run it; `test_registry.py` compares this with the engine."""
        lacking = set() if self.name in ASSOCIATIVE else {"associative"}
        if self.name in APART:
            lacking |= {"native", "fused"}
        if self.name in BEYOND or NO_KERNEL:
            lacking |= {"native"}
        if not self.interpreted or jax.default_backend() != "tpu":
            lacking |= {"pallas_tpu"}
        if not self.printed or jax.default_backend() != "gpu":
            lacking |= {"cuda"}
        if self.name in SPATIAL:
            lacking |= {"newton"}
        return tuple(name for name in engines.IMPLEMENTATIONS if name not in lacking)

    @property
    def sampled(self) -> tuple[str, ...]:
        """The implementations that a test runs which runs them all: of few cells "newton" too."""
        return tuple(n for n in self.implementations if n != "newton" or self.name in NEWTON)

    @property
    def interpreted(self) -> bool:
        """True if the TPU's kernel can run it, which Pallas interprets here."""
        return self.name not in BEYOND_TPU

    @property
    def printed(self) -> bool:
        """True if its update can be printed as CUDA C++, which an emulator runs here."""
        return self.name not in APART | BEYOND

    @property
    def default(self) -> str:
        """The implementation that `implementation=None` picks on a CPU."""
        return next(name for name in self.implementations if name != "associative")


APART = {"gru_reset_before", "user_step", "zoneout_gru_before"}
"""The cells that do not factor."""

BEYOND = {"lstm_projection", "indrnn", "conv_lstm_1d", "conv_lstm_2d", "conv_lstm_3d"}
"""Cells that the kernels of CPUs and of NVIDIA's GPUs cannot run: a matmul in `update`, or none in
the recurrence."""

BEYOND_TPU = APART | (BEYOND - {"lstm_projection"})
"""Cells that the TPU's kernel cannot run: they do not factor, or have no matmul of h to recur."""

NEWTON = {"lstm"}
"""The cells of which "newton" is tested in the grid; of the others it is marked slow.

Its programs take long to compile, and whatever is a step is the same to it."""

ASSOCIATIVE = {"min_gru", "min_gru_signed", "min_lstm"}
"""The cells whose gates do not depend on the carry."""


def runs(cell: Any, implementation: str) -> bool:
    """True if the implementation can run the cell with its dtypes."""
    try:
        lj.which(cell, implementation=implementation)
    except NotImplementedError:
        return False
    return True


GROUPS = 4
"""A hidden size that every cell of the registry accepts, also with heads."""

DALE = {"sigma": 0.1, "dale_ratio": 0.5}


def variant(cell: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function `make` of a cell with options."""
    return lambda size, **kw: cell(size, **options, **kw)


def with_heads(cell: Callable[..., Any]) -> Callable[..., Any]:
    """The function `make` of a cell with two heads, or one for the sizes 1 and 3."""
    return lambda size, **kw: cell(size, heads=1 if size in (1, 3) else 2, **kw)


def projected(size: int, **kw: Any) -> Any:
    """An LSTM with a projection and peepholes."""
    smaller = 1 if size in (0, 1, None) else 3
    return lj.LSTM(size, projection_size=smaller, peepholes=True, **kw)


KINKED = {"gate_activation": "hard_sigmoid"}

VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm_peephole": (lj.LSTM, {"peepholes": True}),
    "lstm_coupled": (lj.LSTM, {"coupled": True}),
    "lstm_no_input_gate": (lj.LSTM, {"input_gate": False}),
    "lstm_no_forget_gate": (lj.LSTM, {"forget_gate": False}),
    "lstm_no_output_gate": (lj.LSTM, {"output_gate": False}),
    "lstm_no_input_activation": (lj.LSTM, {"input_activation": "identity"}),
    "lstm_no_output_activation": (lj.LSTM, {"output_activation": "identity"}),
    "lstm_hard_sigmoid": (lj.LSTM, KINKED),
    "lstm_no_bias": (lj.LSTM, {"bias": False}),
    "lstm_double_bias": (lj.LSTM, {"double_bias": True}),
    "gru_activations": (lj.GRU, {"activation": "relu", **KINKED}),
    "gru_no_bias": (lj.GRU, {"bias": False}),
    "gru_double_bias": (lj.GRU, {"double_bias": True}),
    "layer_norm_lstm_normalized": (lj.LayerNormLSTM, {"normalized_carry": True}),
}
"""Every cell, also with each of its options; cells with a hard sigmoid have a kink."""

CASES = {
    case.name: case
    for case in (
        Case("rnn_tanh", lj.RNN),
        Case("rnn_relu", lambda size, **kw: lj.RNN(size, "relu", **kw), smooth=False, twin=True),
        Case("rnn_identity", lambda size, **kw: lj.RNN(size, "identity", **kw), twin=True),
        Case("rnn_callable", lambda size, **kw: lj.RNN(size, jnp.sin, **kw), twin=True),
        Case("lstm", lj.LSTM),
        Case("gru", lj.GRU),
        Case("gru_reset_before", lambda size, **kw: lj.GRU(size, reset_after=False, **kw)),
        *(
            Case(name, variant(cell, **options), "hard_sigmoid" not in options.values(), True, True)
            for name, (cell, options) in VARIANTS.items()
        ),
        Case("lstm_projection", projected, extra=True),
        Case("lstm_heads", with_heads(lj.LSTM), extra=True),
        Case("gru_heads", with_heads(lj.GRU), twin=True, extra=True),
        Case("layer_norm_lstm", lj.LayerNormLSTM, extra=True),
        Case("layer_norm_gru", lj.LayerNormGRU, extra=True),
        Case("layer_norm_rnn", lj.LayerNormRNN, extra=True),
        Case("mgu", lj.MGU, extra=True),
        Case("mgu_no_reset", lambda size, **kw: lj.MGU(size, False, **kw), extra=True),
        Case("janet", lj.JANET, extra=True),
        Case("ugrnn", lj.UGRNN, extra=True),
        Case("minimal_rnn", lj.MinimalRNN, extra=True),
        Case("antisymmetric", lj.AntisymmetricRNN, extra=True),
        Case("antisymmetric_gated", lambda n, **kw: lj.AntisymmetricRNN(n, True, **kw), extra=True),
        Case("modrelu", lj.ModReLURNN, smooth=False, extra=True),
        Case("indrnn", lj.IndRNN, smooth=False, extra=True),
        Case("nas", lj.NASCell, smooth=False, extra=True),
        Case("leaky", lj.LeakyRNN, smooth=False, extra=True),
        Case(
            "leaky_dale",
            lambda n, **kw: lj.LeakyRNN(n, jnp.tanh, **DALE, **kw),
            extra=True,
            noisy=True,
        ),
        Case("ctrnn", lambda n, **kw: lj.CTRNN(n, "tanh", sigma=0.1, **kw), extra=True, noisy=True),
        Case("min_gru", lj.MinGRU, smooth=False, extra=True),
        Case("min_gru_signed", lambda n, **kw: lj.MinGRU(n, True, **kw), smooth=False, extra=True),
        Case("min_lstm", lj.MinLSTM, smooth=False, extra=True),
        Case("sru", lj.SRU, extra=True),
        Case("slstm", lj.SLSTM, smooth=False, extra=True),
        Case("slstm_exp", lambda n, **kw: lj.SLSTM(n, forget_gate="exp", **kw), False, extra=True),
        Case("zoneout", around(lj.zoneout, h=0.3, c=0.2), extra=True, noisy=True),
        Case("zoneout_gru_before", around_gru_before(lj.zoneout, h=0.3), extra=True, noisy=True),
        Case("recurrent_dropout", around(lj.recurrent_dropout, rate=0.4), extra=True, noisy=True),
        Case(
            "recurrent_dropout_per_gate",
            around(lj.recurrent_dropout, rate=0.4, per_gate=True),
            extra=True,
            noisy=True,
        ),
        Case("memory_dropout", around(lj.memory_dropout, rate=0.4), extra=True, noisy=True),
        Case("memory_dropout_gru", memory_dropout_gru, extra=True, noisy=True),
        Case("input_dropout", around(lj.input_dropout, rate=0.4), extra=True, noisy=True),
        Case("weight_drop", around(lj.weight_drop, rate=0.4), extra=True, noisy=True),
        Case("state_noise", around(lj.state_noise, h=0.1, c=0.2), extra=True, noisy=True),
        Case("clip_state", around(lj.clip_state, h=0.3, c=0.5), smooth=False, extra=True),
        Case("clip_cotangents", around(lj.clip_cotangents, limit=1e9), extra=True),
        Case(
            "clip_cotangents_tight", around(lj.clip_cotangents, limit=0.05), extra=True, biased=True
        ),
        Case("learned_start", around(lj.learned_start), extra=True),
        Case("wrapped_thrice", wrapped_thrice, extra=True, noisy=True),
        Case("user_update", Memory),
        Case("user_step", Multiplicative),
    )
}

SPATIAL = {
    case.name: case
    for case in (
        Case("conv_lstm_1d", lambda n, **kw: lj.ConvLSTM(n, (3,), (4,), **kw)),
        Case("conv_lstm_2d", lambda n, **kw: lj.ConvLSTM(n, (2, 3), (3, 4), strides=2, **kw)),
        Case("conv_lstm_3d", lambda n, **kw: lj.ConvLSTM(n, (1, 2, 2), (2, 3, 3), **kw)),
    )
}
"""Cells whose x_t has spatial axes before its D channels, for `test_cells_conv.py`."""

NETS = {
    case.name: case
    for case in (
        Case("stack", lambda n, **kw: lj.stack(lj.LSTM(n + 1), lj.GRU(n), dropout=0.3), noisy=True),
        Case("dense", lambda n, **kw: lj.stack(lj.RNN(n, **kw), lj.GRU(n, **kw), skip="dense")),
        Case("bidirectional", lambda n, **kw: lj.bidirectional(lj.LSTM(n, **kw))),
        Case("deep", lambda n, **kw: lj.zoneout(deep(n, **kw), h=0.2), noisy=True),
        Case("readout", lambda n, **kw: lj.readout(lj.residual(lj.RNN(2, **kw)), n)),
        Case("functions", functions),
    )
}
"""Nets of several cells, for `test_every_cell.py`."""

EVERY = {**CASES, **SPATIAL, **NETS}

EXACT = [case.name for case in CASES.values() if not case.biased]
"""All cells except those whose reverse mode is not a derivative."""

IMPLEMENTATIONS = tuple(engines.IMPLEMENTATIONS)

FASTEST = "fused" if NO_KERNEL else "native"
"""The implementation that `implementation=None` picks for a plain cell: the CPU kernel if built."""


def asked(implementation: str) -> Any:
    """The argument `implementation` for a test in places where not every one may run."""
    serves = implementation in ("native", "pallas_tpu", "cuda", "newton")
    return (implementation, "fused") if serves else implementation


needs_kernel = pytest.mark.skipif(NO_KERNEL is not None, reason=str(NO_KERNEL))
GRID = [(case, name) for case in CASES.values() for name in case.implementations]
EVERY_GRID = [(case, name) for case in EVERY.values() for name in case.implementations]


def additive(cell: Any, input_size: int = 3) -> bool:
    """True if the cell is additive, as `unroll` infers it."""
    params = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((5, 2, *getattr(cell, "input_shape", ()), input_size), jnp.float32)

    def operands(params, xs):
        params, xs, carry = cell.prepare(params, xs, cell.initial_carry(params, (2,)))
        given = cell.weights(params), cell.extras(params), carry, None
        return equations.Operands(*given, cell.project(params, xs), None, None)

    return recurrence_of(cell, jax.eval_shape(operands, params, xs)).additive


HARD = ("lstm", "gru", "user_update")
"""Cells of the everyday tests, with a carry of two leaves, extras, a learned start, and wx and u
used separately or as a sum."""

MEASURED = ("lstm", "gru", "rnn_tanh", "min_gru")
"""One case of each type of cell that `python -m bench accelerator` times."""


def cells(names: Iterable[str] = CASES, dear: bool = False, every: bool = False) -> Any:
    """Parametrise `case` over the cells; all but `HARD` are marked "grid".

    With `dear`, for an expensive test, twins are marked slow; extra cells are, except with `every`.
    """
    chosen = EVERY.values() if every else [CASES[name] for name in names]
    params = [pytest.param(case, id=case.name, marks=_marks(case, dear, every)) for case in chosen]
    return pytest.mark.parametrize("case", params)


def grid(names: Iterable[str] = CASES, dear: bool = False, every: bool = False) -> Any:
    """Parametrise `case` and `implementation` over every pair that runs.

    Marks are as in `cells`; implementations that are not a cell's default are marked "grid".
    """
    return pytest.mark.parametrize(("case", "implementation"), pairs(names, dear, every))


def pairs(names: Iterable[str] = CASES, dear: bool = False, every: bool = False) -> list[Any]:
    """The parameters of `grid`, for tests that add further ones."""
    return [
        pytest.param(case, name, id=f"{case.name}-{name}", marks=_marks(case, dear, every, name))
        for case, name in (EVERY_GRID if every else GRID)
        if every or case.name in set(names)
    ]


def interpreted() -> Any:
    """Parametrise `case` over the cells of the TPU's kernel, which Pallas interprets here.

    All but `HARD` are marked "grid".
    """
    return _over(case for case in CASES.values() if case.interpreted)


def printed() -> Any:
    """Parametrise `case` over the cells whose kernels for NVIDIA's GPUs an emulator runs here.

    All but `HARD` are marked "grid".
    """
    return _over(case for case in CASES.values() if case.printed)


def _over(chosen: Iterable[Case]) -> Any:
    marks = {True: (), False: pytest.mark.grid}
    params = [pytest.param(c, id=c.name, marks=marks[c.name in HARD]) for c in chosen]
    return pytest.mark.parametrize("case", params)


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Do what LSTM_JAX_INTERPRET=1 does: run the TPU's kernel by Pallas' interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contacts, "INTERPRETED", True)
        row = dataclasses.replace(pallas_tpu.ENGINE, platforms=contacts.platforms())
        patch.setitem(engines.IMPLEMENTATIONS, "pallas_tpu", row)
        yield


@contextlib.contextmanager
def emulating(device: Any = None) -> Iterator[None]:
    """Do what LSTM_JAX_EMULATE_CUDA=1 does: run the kernels of NVIDIA's GPUs on this CPU.

    device: the GPU that they are divided for; None: an H100.
    """
    with pytest.MonkeyPatch.context() as patch, cuda_device.of(device or plan.H100):
        patch.setattr(emulation, "EMULATED", True)
        row = dataclasses.replace(cuda.ENGINE, platforms=cuda_device.platforms())
        patch.setitem(engines.IMPLEMENTATIONS, "cuda", row)
        yield


def _marks(case: Case, dear: bool, every: bool, implementation: str | None = None) -> Any:
    """Marks of a case; with `every` one process runs all its tests, to share compilations."""
    marks = [pytest.mark.xdist_group(case.name)] if every else []
    if (dear and case.twin) or (case.extra and not every):
        return [*marks, pytest.mark.slow]
    if implementation == "newton" and case.name not in NEWTON:
        return [*marks, pytest.mark.slow]
    everyday = (every or case.name in HARD) and implementation in (None, case.default)
    return marks if everyday else [*marks, pytest.mark.grid]


# ---- NumPy arrays, whose dtype a test converts ---------------------------------------------------
def normal(tree: Any, rng: np.random.Generator, scale: float = 1.0) -> Any:
    """Normal random numbers of the shapes of `tree`, in float64."""
    return jax.tree.map(lambda leaf: scale * rng.standard_normal(np.shape(leaf)), tree)


def random_params(cell: lj.Cell, input_size: int, rng: np.random.Generator) -> Any:
    """Random parameters without zeros, at the scale of a trained network."""
    shapes = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    return jax.tree.map(lambda s: rng.standard_normal(s.shape) / np.sqrt((*s.shape, 1)[0]), shapes)


def random_carry(cell: lj.Cell, params: Any, batch: tuple[int, ...], rng: Any) -> Any:
    """A random carry without zeros."""
    return normal(jax.eval_shape(lambda: cell.initial_carry(params, batch)), rng)


def cast(tree: Any, dtype: Any) -> Any:
    """Convert `tree` to JAX arrays of `dtype`."""

    def convert(leaf):
        # By NumPy where it can: JAX compiles a program for each shape.
        return jnp.asarray(leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf), dtype)

    return jax.tree.map(convert, tree)


def assert_close(seen: Any, wanted: Any, tol: float) -> None:
    """Assert that leaves agree within `tol` times their largest number (or 1); NaN never agrees."""
    assert jax.tree.structure(seen) == jax.tree.structure(wanted)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(seen), jax.tree.leaves(wanted), strict=True
    ):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        atol = tol * max(1.0, np.abs(b).max(initial=0))
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False, err_msg=name)


def directional(tree: Any, direction: Any) -> float:
    """The inner product <tree, direction>, in float64."""
    products = jax.tree.map(
        lambda a, b: np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)), tree, direction
    )
    return float(sum(jax.tree.leaves(products)))


def check_pieces_and_steps(run: Any, step: Any, params: Any, xs: Any, start: Any) -> None:
    """Check that `run(params, xs, start)` equals a run in two halves, and one by single steps."""
    final, ys = run(params, xs, start)
    middle, head = run(params, xs[:3], start)
    last, tail = run(params, xs[3:], middle)
    assert_close((last, np.concatenate([head, tail])), (final, ys), 1e-12)
    for x, y in zip(xs, ys, strict=True):
        start, seen = step(params, start, x)
        assert_close(seen, y, 1e-12)
    assert_close(start, final, 1e-12)
