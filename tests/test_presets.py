"""The starts of other libraries: our draws beside theirs, read by `interop`, and closed forms.

Two draws agree if their exact parts do (zeros, ones, what is orthogonal) and the numbers of each
part have one distribution, by Kolmogorov and Smirnov's distance at a level of 0.001.
"""

import functools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import interop_check as check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import initializers
from lstm_jax.initializers import PRESETS, preset

D, H, P = 60, 400, 50
KEY = jax.random.key(11)
CELLS = {"LSTM": lj.LSTM, "GRU": lj.GRU, "RNN": lj.RNN, "MGU": lj.MGU, "SLSTM": lj.SLSTM}
# Keras's own variables, where it copies them to NumPy 2.
pytestmark = [
    pytest.mark.grid,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]


# ---- theirs --------------------------------------------------------------------------------------
def torch(kind, **options):
    modules = pytest.importorskip("torch").nn
    pytest.importorskip("torch").manual_seed(0)
    options = {"double_bias": options.pop("double_bias", False)}, options
    return lj.interop.from_torch(getattr(modules, kind)(D, H, **options[1]), **options[0])


def keras(kind):
    library = pytest.importorskip("keras")
    library.utils.set_random_seed(0)
    layer = getattr(library.layers, {"RNN": "SimpleRNN"}.get(kind, kind))(H)
    layer.build((None, None, D))
    return lj.interop.from_keras(layer)


def linen(kind):
    library = pytest.importorskip("flax.linen")
    name = {"RNN": "SimpleCell"}.get(kind, f"{kind}Cell")
    module = library.RNN(getattr(library, name)(H))
    return lj.interop.from_linen(module.init(jax.random.key(0), jnp.zeros((1, 1, D))))


def nnx(kind):
    library = pytest.importorskip("flax.nnx")
    name = {"RNN": "SimpleCell"}.get(kind, f"{kind}Cell")
    return lj.interop.from_nnx(getattr(library, name)(D, H, rngs=library.Rngs(0)))


def haiku(kind):
    library = pytest.importorskip("haiku")

    def run(x):
        core = getattr(library, {"RNN": "VanillaRNN"}.get(kind, kind))(H)
        return core(x, core.initial_state(1))

    params = library.transform(run).init(jax.random.key(0), jnp.zeros((1, D)))
    return lj.interop.from_haiku(params)


def equinox(kind):
    library = pytest.importorskip("equinox")
    cell = getattr(library.nn, f"{kind}Cell")
    return lj.interop.from_equinox(cell(D, H, key=jax.random.key(0)))


THEIRS = {
    "torch": torch,
    "equinox": equinox,
    "keras": keras,
    "flax": linen,
    "nnx": nnx,
    "nnx_optimized": lambda kind: nnx(f"Optimized{kind}"),
    "haiku": haiku,
}


# ---- what two draws are compared by --------------------------------------------------------------
def parts(cell, params):
    """{what: its numbers}: each matrix, and of b what is one distribution."""
    found = {name: np.asarray(p).ravel() for name, p in params.items() if name.startswith("w")}
    for name in ("b", "b_hh"):
        if name in params:
            blocks = np.split(np.asarray(params[name]), len(cell.gate_names))
            gates = dict(zip(cell.gate_names, blocks, strict=True))
            for gate in ("f", "n"):  # What is apart somewhere: a forget bias, half of two biases.
                if gate in gates:
                    found[f"{name}[{gate}]"] = gates.pop(gate)
            if gates:
                found[name] = np.concatenate(list(gates.values()))
    return found | ({"b_hn": np.asarray(params["b_hn"])} if "b_hn" in params else {})


def exact(cell, params):
    """What holds for every draw: which parts are constant, and what is orthonormal in w_hh."""
    constants = {name: float(x[0]) for name, x in parts(cell, params).items() if np.all(x == x[0])}
    w = np.asarray(params["w_hh"], np.float64)
    gates = [is_identity(u.T @ u) for u in np.split(w, len(cell.gate_names), axis=1)]
    return constants, is_identity(w @ w.T), all(gates)


def is_identity(a):
    return bool(np.allclose(a, np.eye(len(a)), atol=1e-5))


def distance(a, b):
    """Kolmogorov and Smirnov's, over its critical value at 0.001; of 20,000 numbers or so."""
    a, b = (np.sort(x[:: max(1, len(x) // 20_000)]) for x in (a, b))
    both = np.concatenate([a, b])
    shares = [np.searchsorted(x, both, side="right") / len(x) for x in (a, b)]
    critical = 1.95 * np.sqrt((len(a) + len(b)) / (len(a) * len(b)))
    return np.abs(shares[0] - shares[1]).max() / critical


def summary(cell, params):
    return {name: p.shape for name, p in params.items()}, exact(cell, params), parts(cell, params)


def apart(seen, wanted):
    """What sets the draws of two summaries apart, or None."""
    assert seen[0] == wanted[0]
    if seen[1] != wanted[1]:
        return "what is exact", seen[1], wanted[1]
    far = {name: distance(x, wanted[2][name]) for name, x in seen[2].items()}
    return {name: ratio for name, ratio in far.items() if ratio > 1} or None


def difference(cell, seen, wanted):
    """What sets two draws apart, or None."""
    return apart(summary(cell, seen), summary(cell, wanted))


# ---- tests ---------------------------------------------------------------------------------------
PAIRS = [(library, kind) for library in THEIRS for kind in PRESETS[library]]


@pytest.mark.parametrize("library, kind", PAIRS)
def test_a_preset_is_the_start_of_the_library(library, kind):
    with check.lenient():
        net, theirs = THEIRS[library](kind)
    options = {"reset_after": net.reset_after} if kind == "GRU" else {}
    cell = CELLS[kind](H, **options, **preset(library, kind))
    ours = cell.init(KEY, D)
    theirs |= {name: jnp.zeros(H) for name in ours.keys() - theirs.keys() if name == "b_hn"}
    assert difference(cell, ours, theirs) is None


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_torchs_two_biases(kind):
    """Two draws where the cell has two, their sum where it has one."""
    _, theirs = torch(kind, double_bias=True)
    cell = CELLS[kind](H, double_bias=True, **preset("torch", kind))
    ours = cell.init(KEY, D)
    assert difference(cell, ours, theirs) is None
    assert np.abs(ours["b"]).max() <= 1 / np.sqrt(H) and not np.array_equal(ours["b"], ours["b_hh"])


def test_torchs_projection():
    """U[-1/sqrt(H), 1/sqrt(H)] for w_hr [H, P] too, and for w_hh [P, 4H]."""
    _, theirs = torch("LSTM", proj_size=P)
    cell = lj.LSTM(H, projection_size=P, **preset("torch"))
    ours = cell.init(KEY, D)
    assert difference(cell, ours, theirs) is None
    for name in ("w_ih", "w_hh", "w_hr"):
        assert np.abs(ours[name]).max() == pytest.approx(1 / np.sqrt(H), rel=1e-3)


def test_the_comparison_tells_the_libraries_apart():
    """All presets of an LSTM beside each other: linen's and nnx's are one, no others."""
    drawn = {}
    for n, (library, kinds) in enumerate(PRESETS.items()):
        cell = lj.LSTM(H, **kinds["LSTM"])
        drawn[library] = summary(cell, cell.init(jax.random.key(n), D))
    same = {(a, b) for a in drawn for b in drawn if a < b and apart(drawn[a], drawn[b]) is None}
    assert same == {("flax", "nnx")}


@pytest.mark.parametrize(
    "library, bound, variance",
    [
        ("torch", 1 / np.sqrt(H), 1 / (3 * H)),
        ("keras", np.sqrt(6 / (D + 4 * H)), 2 / (D + 4 * H)),
        ("haiku", 2 / np.sqrt(D + H), 0.7737 / (D + H)),
        ("flax", 2 / 0.8796 / np.sqrt(D), 1 / D),
        ("xlstm", np.inf, 2 / (5 * D)),
    ],
)
def test_the_closed_forms_of_w_ih(library, bound, variance):
    w = np.asarray(lj.LSTM(H, **preset(library)).init(KEY, D)["w_ih"], np.float64)
    assert np.abs(w).max() <= bound * 1.001 and w.var() == pytest.approx(variance, rel=0.02)


def test_keras_is_orthogonal_over_the_whole_matrix():
    """And flax in every gate: neither is the other."""
    rows, gates = (exact(lj.LSTM(8), lj.LSTM(8, **preset(n)).init(KEY, 3))[1:] for n in
                   ("keras", "flax"))  # fmt: skip
    assert rows == (True, False) and gates == (False, True)


def test_xlstm_starts_without_recurrence():
    """Zero recurrent weights, and a forget bias that begins anew in each head."""
    params = lj.SLSTM(8, heads=2, **preset("xlstm", lj.SLSTM)).init(KEY, D)
    assert params["w_hh"].shape == (2, 4, 16) and not params["w_hh"].any()
    i, f, g, o = np.split(np.asarray(params["b"]), 4)
    one = 5 - 12 * (np.arange(4) / 3) ** 0.3
    np.testing.assert_allclose(f, np.concatenate([one, one]), rtol=1e-5)
    assert not i.any() and not g.any() and not o.any()


# ---- the pieces ----------------------------------------------------------------------------------
def test_summed_draws_n_once():
    b = np.asarray(
        initializers.bias(initializers.summed(initializers.constant(1.0)), KEY, "rzn", 2)
    )
    assert b.tolist() == [2, 2, 2, 2, 1, 1]


def test_whole_sees_the_matrix_and_stacked_the_rows_of_both():
    seen = []

    def spy(key, shape, dtype):
        seen.append(shape)
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    cell = lj.LSTM(4, w_ih_init=initializers.whole(spy), w_hh_init=initializers.stacked(spy))
    params = cell.init(KEY, 3)
    assert seen == [(3, 16), (7, 16)] and params["w_hh"].shape == (4, 16)
    assert params["w_ih"].shape == (3, 16) and params["w_ih"][0, 5] == 5


def test_each_head_is_drawn_alone():
    """A whole matrix is that of one head."""
    params = lj.LSTM(6, heads=3, w_hh_init=initializers.whole(initializers.orthogonal())).init(
        KEY, D
    )
    for w in np.asarray(params["w_hh"]):
        assert w.shape == (2, 8) and is_identity(w @ w.T)


@pytest.mark.parametrize("library", PRESETS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(library, dtype):
    params = lj.LSTM(8, param_dtype=dtype, **preset(library)).init(KEY, 3)
    assert all(p.dtype == dtype and np.isfinite(p).all() for p in params.values())


@pytest.mark.parametrize("library, kind", [(a, b) for a in PRESETS for b in PRESETS[a]])
def test_a_preset_is_a_value(library, kind):
    """Equal cells, one compilation; and the table cannot be changed through what it gives."""
    make = functools.partial(CELLS[kind], 8)
    assert make(**preset(library, kind)) == make(**preset(library, CELLS[kind]))
    hash(make(**preset(library, kind)))
    preset(library, kind).clear()
    assert set(preset(library, kind)) == {"w_ih_init", "w_hh_init", "b_init"}


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: preset("pytorch"), r"library: got 'pytorch', wanted one of 'torch'"),
        (lambda: preset("equinox", "RNN"), r"cell: got 'RNN', wanted one of 'LSTM', 'GRU'"),
        (
            lambda: lj.GRU(4, **preset("keras")).init(KEY, D),
            r"forget_bias.*gate='f'.*wanted a cell",
        ),
        (
            lambda: lj.RNN(4, b_init=initializers.whole(initializers.zeros())).init(KEY, D),
            r"init: got whole.* for a bias",
        ),
        (
            lambda: lj.RNN(4, w_hh_init=initializers.summed(initializers.zeros())).init(KEY, D),
            r"init: got summed.* for a matrix",
        ),
        (lambda: initializers.truncated_normal(-1.0), r"std: got -1.0"),
        (lambda: initializers.truncated_normal()(KEY, (3,)), r"shape: got \(3,\)"),
        (lambda: initializers.small_normal()(KEY, (3,)), r"shape: got \(3,\)"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert ";" in str(error.value)
