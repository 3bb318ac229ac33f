"""Layer normalisation in the cells, against the equations in NumPy and against torch's own norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
import registry
from papers import B, D, H, T, sigmoid

import lstm_jax as lj

pytestmark = pytest.mark.sampled

KEY = jax.random.key(4)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


# ---- the equations, in NumPy ---------------------------------------------------------------------
def norm(a, eps):
    """Ba, Kiros & Hinton (2016), equation 3, over the row of each sequence."""
    mean = a.mean(-1, keepdims=True)
    deviation = np.sqrt(((a - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (a - mean) / deviation


def lstm(p, carry, x, eps=1e-5, carried=False):
    """Their LSTM; `carried` is TensorFlow Addons' form, whose next step sees the normalised c."""
    h, c = carry
    a = norm(x @ p["w_ih"], eps) * p["gamma_x"] + p.get("beta_x", 0)
    a = a + norm(h @ p["w_hh"], eps) * p["gamma_h"] + p.get("beta_h", 0) + p["b"]
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    shown = norm(c, eps) * p["gamma_c"] + p["beta_c"]
    return sigmoid(o) * np.tanh(shown), shown if carried else c


def gru(p, carry, x, eps=1e-5):
    """haste's: one norm over the three gates of each side, the reset gate after the matmul."""
    (h,) = carry
    vx = norm(x @ p["w_ih"], eps) * p["gamma_x"] + p["b"]
    vh = norm(h @ p["w_hh"], eps) * p["gamma_h"]
    vx, vh = np.split(vx, 3, axis=-1), np.split(vh, 3, axis=-1)
    r, z = sigmoid(vx[0] + vh[0]), sigmoid(vx[1] + vh[1])
    g = np.tanh(vx[2] + r * (vh[2] + p["b_hn"]))
    return (z * h + (1 - z) * g,)


def rnn(p, carry, x, eps=1e-5):
    """Their equation 4."""
    (h,) = carry
    return (np.tanh(norm(x @ p["w_ih"] + h @ p["w_hh"], eps) * p["gamma"] + p["b"]),)


EQUATIONS = {
    "layer_norm_lstm": lstm,
    "layer_norm_lstm_normalized": functools.partial(lstm, eps=1e-3, carried=True),
    "layer_norm_gru": gru,
    "layer_norm_rnn": rnn,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equations_of_the_paper(name, rng):
    papers.check(registry.CASES[name].make(H), EQUATIONS[name], rng)


@pytest.mark.parametrize(
    "make, step",
    [(lj.LayerNormLSTM, lstm), (lj.LayerNormGRU, gru), (lj.LayerNormRNN, rnn)],
)
def test_another_eps(make, step, rng):
    """So large that it counts."""
    cell = make(H, eps=0.5)
    args = papers.problem(cell, rng)
    _, ys = papers.loop(functools.partial(step, eps=0.5), args)
    registry.assert_close(lj.unroll(cell, *args)[1], ys, 1e-12)


def test_the_default_eps():
    assert lj.LayerNormLSTM(H).eps == lj.LayerNormGRU(H).eps == lj.LayerNormRNN(H).eps == 1e-5
    assert lj.LayerNormLSTM(H, normalized_carry=True).eps == 1e-3
    assert lj.LayerNormLSTM(H) == lj.LayerNormLSTM(H, eps=1e-5)


@pytest.mark.grid
@pytest.mark.parametrize("make", [lj.LayerNormLSTM, lj.LayerNormGRU])
def test_both_parts_are_torchs_norm(make, rng):
    """F.layer_norm of x W, hoisted, and of h U inside: by the gates of a step."""
    torch = pytest.importorskip("torch")
    cell = make(H, input_activation="identity") if make is lj.LayerNormLSTM else make(H)
    params, xs, carry = papers.problem(cell, rng)
    params["b"] = np.zeros_like(params["b"])
    size = len(params["b"])

    def torch_norm(a, gamma):
        return torch.nn.functional.layer_norm(
            torch.tensor(a), (size,), torch.tensor(params[gamma])
        ).numpy()

    wx = cell.project(params, jnp.asarray(xs))
    registry.assert_close(wx, torch_norm(xs @ params["w_ih"], "gamma_x"), 1e-12)
    u = carry[0] @ params["w_hh"]
    gates = cell.gates(carry, wx[0], jnp.asarray(u), **cell.extras(params))
    wanted = np.asarray(wx[0]) + torch_norm(u, "gamma_h")
    first = next(iter(gates.values()))
    registry.assert_close(first, sigmoid(wanted[:, :H]), 1e-12)


# ---- what normalisation is for -------------------------------------------------------------------
@pytest.mark.parametrize("make", [lj.LayerNormLSTM, lj.LayerNormGRU, lj.LayerNormRNN])
def test_the_scale_of_the_weights_does_not_matter(make, rng):
    """Equation 6 of the paper; w_ih and w_hh of an RNN are one matrix there."""
    cell = make(H, eps=1e-12)
    params, xs, carry = papers.problem(cell, rng)
    scaled = params | {"w_ih": 7.0 * params["w_ih"], "w_hh": 7.0 * params["w_hh"]}
    seen, wanted = (lj.unroll(cell, p, xs, carry)[1] for p in (scaled, params))
    registry.assert_close(seen, wanted, 1e-8)


@pytest.mark.parametrize("make", [lj.LayerNormLSTM, lj.LayerNormGRU, lj.LayerNormRNN])
def test_from_a_carry_of_zeros(make, rng):
    """The norm of zeros is zero, with a derivative."""
    cell = make(H)
    params, xs, _ = papers.problem(cell, rng)
    gradient = jax.grad(lambda params: jnp.sum(lj.unroll(cell, params, xs)[1]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_norms_of_half_precision_run_in_float32():
    """Of bfloat16 numbers, the only reductions, squares and roots are of float32."""
    cell = lj.LayerNormLSTM(H)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), cell.init(KEY, D))
    xs = jnp.ones((T, B, D), jnp.bfloat16)
    fused = functools.partial(lj.unroll, cell, implementation="fused")
    text = jax.jit(fused).lower(params, xs).as_text()
    roots = [line for line in text.splitlines() if "stablehlo.rsqrt" in line]
    assert roots and all("bf16" not in line for line in roots)


def test_the_norm_of_the_input_is_outside_the_loop():
    """One root over all steps, and one each for h and c inside."""
    cell = lj.LayerNormLSTM(H)
    params, xs = cell.init(KEY, D), jnp.ones((T, B, D), jnp.float32)
    fused = functools.partial(lj.unroll, cell, implementation="fused")
    text = jax.jit(fused).lower(params, xs).as_text()
    roots = [line for line in text.splitlines() if "stablehlo.rsqrt" in line]
    assert sum(f"tensor<{T}x{B}x1xf32>" in line for line in roots) == 1
    assert sum(f"tensor<{B}x1xf32>" in line for line in roots) == 2


# ---- options and errors --------------------------------------------------------------------------
def test_the_parameters():
    def shapes(cell):
        return {name: p.shape for name, p in cell.init(KEY, D).items()}

    plain = shapes(lj.LSTM(H)) | {"gamma_x": (16,), "gamma_h": (16,), "gamma_c": (4,)}
    assert shapes(lj.LayerNormLSTM(H)) == plain | {"beta_c": (4,)}
    both = {"beta_x": (16,), "beta_h": (16,), "beta_c": (4,)}
    assert shapes(lj.LayerNormLSTM(H, normalized_carry=True)) == plain | both
    gru = shapes(lj.GRU(H)) | {"gamma_x": (12,), "gamma_h": (12,)}
    assert shapes(lj.LayerNormGRU(H)) == gru
    assert shapes(lj.LayerNormRNN(H)) == shapes(lj.RNN(H)) | {"gamma": (4,)}
    for name, p in lj.LayerNormLSTM(H, normalized_carry=True).init(KEY, D).items():
        if name.startswith(("gamma", "beta")):
            assert set(np.asarray(p)) == {1.0 if name.startswith("gamma") else 0.0}


@pytest.mark.parametrize("make", [lj.LayerNormLSTM, lj.LayerNormGRU, lj.LayerNormRNN])
def test_the_two_biases_and_none(make, rng):
    """A second bias adds to the first, a GRU's n part inside the product; without any b is zero."""
    params, xs, _ = papers.problem(make(H, double_bias=True), rng)
    b_hh = params["b_hh"]
    one = {name: p for name, p in params.items() if name != "b_hh"}
    if make is lj.LayerNormGRU:
        one |= {"b_hn": b_hh[2 * H :]}
        b_hh = np.concatenate([b_hh[: 2 * H], np.zeros(H)])
    one["b"] = params["b"] + b_hh

    def ys(params, **options):
        return lj.unroll(make(H, **options), params, xs)[1]

    registry.assert_close(ys(params, double_bias=True), ys(one), 1e-12)
    none = {name: p for name, p in one.items() if name not in ("b", "b_hn")}
    assert make(H, bias=False).init(KEY, D).keys() == none.keys()
    zero = one | {name: np.zeros_like(one[name]) for name in one if name in ("b", "b_hn")}
    registry.assert_close(ys(none, bias=False), ys(zero), 1e-12)


def test_with_the_options_of_an_lstm(rng):
    """A coupled pair with peepholes, which see the c that is carried, and a projection."""
    options = {"coupled": True, "peepholes": True, "projection_size": 3}
    cell = lj.LayerNormLSTM(H, **options)

    def step(p, carry, x):
        h, c = carry
        a = norm(x @ p["w_ih"], 1e-5) * p["gamma_x"] + norm(h @ p["w_hh"], 1e-5) * p["gamma_h"]
        f, g, o = np.split(a + p["b"], 3, axis=-1)
        f = sigmoid(f + p["w_cf"] * c)
        c = f * c + (1 - f) * np.tanh(g)
        shown = norm(c, 1e-5) * p["gamma_c"] + p["beta_c"]
        return (sigmoid(o + p["w_co"] * c) * np.tanh(shown)) @ p["w_hr"], c

    papers.check(cell, step, rng)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: lj.LayerNormLSTM(H, heads=2), r"heads: got 2, wanted 1"),
        (lambda: lj.LayerNormGRU(H, heads=2), r"heads: got 2, wanted 1"),
        (lambda: lj.LayerNormRNN(H, heads=2), r"heads: got 2, wanted 1"),
        (lambda: lj.LayerNormLSTM(H, eps=0.0), r"eps: got 0.0"),
        (lambda: lj.LayerNormGRU(H, eps=-1.0), r"eps: got -1.0"),
        (lambda: lj.LayerNormRNN(H, eps=jnp.ones(())), r"eps: got an array.*float\(\)"),
        (lambda: lj.LayerNormGRU(H, reset_after=False), r"reset_after: got False, wanted True"),
        (lambda: lj.LayerNormRNN(H, "swish"), r"activation: got 'swish'"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert ";" in str(error.value)
