"""The research cells that are one `update` each, against their papers' equations in NumPy.

The loops are written from the papers, a second time; the gradient of every parameter, of the input
and of the first carry is held to central differences of the same loops.
"""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
import registry
from papers import B, D, H, T, loop, problem, sigmoid

import lstm_jax as lj
from lstm_jax import initializers

pytestmark = pytest.mark.sampled

KEY = jax.random.key(5)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


# ---- the equations, in NumPy ---------------------------------------------------------------------
def relu(x):
    return np.maximum(x, 0)


def of_gates(p):
    """(w_ih, w_hh, b) of each gate."""
    cut = [np.split(p[name], p[name].shape[-1] // H, axis=-1) for name in ("w_ih", "w_hh", "b")]
    return list(zip(*cut, strict=True))


def sums(p, h, x):
    """The preactivation of each gate."""
    return [x @ w + h @ u + b for w, u, b in of_gates(p)]


def mgu(reset_gate):
    def step(p, carry, x):
        (h,) = carry
        (w_f, u_f, b_f), (w_n, u_n, b_n) = of_gates(p)
        f = sigmoid(x @ w_f + b_f + h @ u_f)
        n = np.tanh(x @ w_n + b_n + (f * (h @ u_n + p["b_hn"]) if reset_gate else h @ u_n))
        return ((1 - f) * n + f * h,)

    return step


def janet(p, carry, x):
    (c,) = carry
    s, g = sums(p, c, x)
    return (sigmoid(s) * c + (1 - sigmoid(s - 1)) * np.tanh(g),)


def ugrnn(p, carry, x):
    (h,) = carry
    g, c = sums(p, h, x)
    return (sigmoid(g) * h + (1 - sigmoid(g)) * np.tanh(c),)


def minimal_rnn(p, carry, x):
    (h,) = carry
    z = np.tanh(x @ p["w_ih"] + p["b_n"])
    u = sigmoid(h @ p["w_hh"] + z @ p["w_nh"] + p["b"])
    return (u * h + (1 - u) * z,)


def antisymmetric(p, carry, x):
    (h,) = carry
    w = p["w_hh"] - p["w_hh"].T - 0.01 * np.eye(H)
    a = [x @ v + h @ w + b for v, b in zip(*(cut(p[n]) for n in ("w_ih", "b")), strict=True)]
    gate = sigmoid(a[0]) if len(a) == 2 else 1
    return (h + 0.01 * gate * np.tanh(a[-1]),)


def cut(w):
    return np.split(w, w.shape[-1] // H, axis=-1)


def indrnn(p, carry, x):
    return (relu(x @ p["w_ih"] + p["b"] + p["w_hh"] * carry[0]),)


def modrelu(p, carry, x):
    a = x @ p["w_ih"] + carry[0] @ p["w_hh"]
    return (np.sign(a) * relu(np.abs(a) + p["r"]),)


def nas(p, carry, x):
    h, c = carry
    s, m = cut(x @ p["w_ih"]), cut(h @ p["w_hh"] + p["b"])
    upper = [sigmoid(s[0] + m[0]), relu(s[1] + m[1]), sigmoid(s[2] + m[2]), relu(s[3] * m[3])]
    lower = [np.tanh(s[4] + m[4]), sigmoid(s[5] + m[5]), np.tanh(s[6] + m[6]), sigmoid(s[7] + m[7])]
    c = np.tanh(np.tanh(upper[0] * upper[1]) + c) * np.tanh(upper[2] + upper[3])
    side = np.tanh(np.tanh(lower[0] * lower[1]) + sigmoid(lower[2] + lower[3]))
    return np.tanh(c * side), c


def leaky(p, carry, x):
    (h,) = carry
    return (0.8 * h + 0.2 * relu(x @ p["w_ih"] + h @ p["w_hh"] + p["b"]),)


def leaky_dale(p, carry, x):
    (h,) = carry
    w = np.diag([1, 1, -1, -1]) @ np.abs(p["w_hh"])
    return (0.8 * h + 0.2 * np.tanh(x @ p["w_ih"] + h @ w + p["b"]),)


def ctrnn(p, carry, x):
    r, current = carry
    current = 0.8 * current + 0.2 * (r @ p["w_hh"] + x @ p["w_ih"] + p["b"])
    return np.tanh(current), current


EQUATIONS = {
    "mgu": mgu(True),
    "mgu_no_reset": mgu(False),
    "janet": janet,
    "ugrnn": ugrnn,
    "minimal_rnn": minimal_rnn,
    "antisymmetric": antisymmetric,
    "antisymmetric_gated": antisymmetric,
    "indrnn": indrnn,
    "modrelu": modrelu,
    "nas": nas,
    "leaky": leaky,
    "leaky_dale": leaky_dale,
    "ctrnn": ctrnn,
}


# ---- values and gradients ------------------------------------------------------------------------
@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equations_of_the_paper(name, rng):
    """Values and gradients, by every implementation."""
    papers.check(registry.CASES[name].make(H), EQUATIONS[name], rng)


@pytest.mark.parametrize("reset_gate", [True, False])
def test_mgu_is_flax(reset_gate, rng):
    """flax.linen.MGUCell: values and gradients, its biases included."""
    nn = pytest.importorskip("flax.linen")
    cell = lj.MGU(H, reset_gate)
    params, xs, _ = problem(cell, rng)
    theirs = nn.RNN(nn.MGUCell(H, reset_gate=reset_gate, param_dtype=jnp.float64), time_major=True)

    def converted(p):
        (w_f, u_f, b_f), (w_n, u_n, b_n) = of_gates(p)
        hn = {"kernel": u_n} | ({"bias": p["b_hn"]} if reset_gate else {})
        dense = {"if": {"kernel": w_f, "bias": b_f}, "in": {"kernel": w_n, "bias": b_n}}
        return {"params": {"cell": dense | {"hf": {"kernel": u_f}, "hn": hn}}}

    def of_ys(ys):
        return jnp.sum(jnp.sin(ys)), ys

    ours, flax = jax.jit(
        lambda p, variables: (
            jax.value_and_grad(lambda p: of_ys(lj.unroll(cell, p, xs)[1]), has_aux=True)(p),
            jax.value_and_grad(lambda v: of_ys(theirs.apply(v, xs)), has_aux=True)(variables),
        )
    )(params, converted(params))
    registry.assert_close(ours[0], flax[0], 1e-12)
    registry.assert_close(converted(jax.tree.map(np.asarray, ours[1])), flax[1], 1e-12)
    begun = jax.eval_shape(theirs.init, jax.random.key(0), jnp.zeros((T, B, D)))
    assert jax.tree.structure(begun) == jax.tree.structure(converted(params))


# ---- options -------------------------------------------------------------------------------------
def ys_of(cell, params, xs, **options):
    return lj.unroll(cell, jax.tree.map(jnp.asarray, params), xs, **options)[1]


DOUBLED = ["mgu", "mgu_no_reset", "janet", "minimal_rnn", "antisymmetric_gated", "indrnn", "nas"]


@pytest.mark.parametrize("name", DOUBLED)
def test_the_two_biases_and_none(name, rng):
    """A second bias adds to the first, inside products too; without any, b is zero."""
    make = registry.CASES[name].make
    params, xs, _ = problem(make(H, double_bias=True), rng)
    summed = params | {"b": params["b"] + params["b_hh"]}
    del summed["b_hh"]
    if name == "mgu":
        b_n = params["b_hh"][H:]
        summed |= {"b": summed["b"] - np.concatenate([np.zeros(H), b_n]), "b_hn": b_n}
    if name != "nas":  # Its l_3 tells the two sides apart.
        seen = ys_of(make(H, double_bias=True), params, xs)
        registry.assert_close(seen, ys_of(make(H), summed, xs), 1e-12)
    none = {k: v for k, v in summed.items() if not k.startswith("b")}
    zero = summed | {k: np.zeros_like(v) for k, v in summed.items() if k.startswith("b")}
    assert make(H, bias=False).init(KEY, D).keys() == none.keys()
    seen = ys_of(make(H, bias=False), none, xs)
    registry.assert_close(seen, ys_of(make(H), zero, xs), 1e-12)


def test_each_side_of_the_nas_cell_has_its_bias(rng):
    """b is the weight of an input that is one; b_hh is the bias of the equations."""
    cell = lj.NASCell(H, double_bias=True)
    params, xs, _ = problem(cell, rng)
    w_ih = np.concatenate([params["w_ih"], params["b"][None]])
    one = {"w_ih": w_ih, "w_hh": params["w_hh"], "b": params["b_hh"]}
    with_one = np.concatenate([xs, np.ones((T, B, 1))], axis=-1)
    _, wanted = loop(nas, (one, with_one, (np.zeros((B, H)), np.zeros((B, H)))))
    registry.assert_close(ys_of(cell, params, xs), wanted, 1e-12)


@pytest.mark.parametrize("make", [lj.MGU, lj.MinimalRNN])
def test_heads_are_a_block_diagonal_matrix(make, rng):
    params, xs, _ = problem(make(H, heads=2), rng)
    blocks = np.split(params["w_hh"], params["w_hh"].shape[-1] // 2, axis=-1)  # [2, 2, 2] a gate
    dense = np.zeros((H, len(blocks), H))
    for i, block in enumerate(blocks):
        dense[:2, i, :2], dense[2:, i, 2:] = block
    wanted = ys_of(make(H), params | {"w_hh": dense.reshape(H, -1)}, xs)
    registry.assert_close(ys_of(make(H, heads=2), params, xs), wanted, 1e-12)


def test_beta_of_zero_couples_what_is_kept_and_let_in(rng):
    params, xs, _ = problem(lj.JANET(H), rng)
    registry.assert_close(
        ys_of(lj.JANET(H, 0.0), params, xs), ys_of(lj.UGRNN(H), params, xs), 1e-12
    )


def test_the_flow_by_its_step_and_its_diffusion(rng):
    """One step from zero: h = epsilon tanh(wx); a large gamma pulls it back."""
    cell = lj.AntisymmetricRNN(H, epsilon=0.5, gamma=3.0)
    params, xs, (h,) = problem(cell, rng)
    w = params["w_hh"] - params["w_hh"].T - 3 * np.eye(H)
    wanted = h + 0.5 * np.tanh(xs[0] @ params["w_ih"] + params["b"] + h @ w)
    registry.assert_close(ys_of(cell, params, xs[:1], carry=lj.State(h))[0], wanted, 1e-12)


def test_a_leak_of_one_step_is_an_rnn(rng):
    params, xs, _ = problem(lj.RNN(H), rng)
    leaky = lj.LeakyRNN(H, "tanh", tau=3.0, dt=3.0)
    registry.assert_close(ys_of(leaky, params, xs), ys_of(lj.RNN(H), params, xs), 1e-12)


def test_the_rates_of_a_ctrnn_start_at_those_of_no_current():
    cell = lj.CTRNN(H, jnp.cos)
    h, x = cell.initial_carry(cell.init(KEY, D), (B,))
    assert (h == 1).all() and (x == 0).all() and h.shape == x.shape == (B, H)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: lj.JANET(H, -1.0), r"beta: got -1.0, wanted .*\[0, inf\)"),
        (lambda: lj.JANET(H, jnp.ones(())), r"beta: got an array.*Python number.*float\(\)"),
        (lambda: lj.AntisymmetricRNN(H, epsilon=-0.1), r"epsilon: got -0.1"),
        (lambda: lj.AntisymmetricRNN(H, gamma=float("nan")), r"gamma: got nan"),
        (lambda: lj.AntisymmetricRNN(H, heads=2), r"heads: got 2, wanted 1"),
        (lambda: lj.IndRNN(H, "swish"), r"activation: got 'swish', wanted one of 'tanh'"),
        (lambda: lj.IndRNN(H, heads=2), r"heads: got 2, wanted 1"),
        (lambda: lj.LeakyRNN(H, "swish"), r"activation: got 'swish'"),
        (lambda: lj.LeakyRNN(H, tau=10.0), r"dt: got 20.0, wanted in \(0, tau = 10.0\]"),
        (lambda: lj.LeakyRNN(H, dt=0.0), r"dt: got 0.0"),
        (lambda: lj.LeakyRNN(H, tau=float("inf")), r"tau: got inf"),
        (lambda: lj.CTRNN(H, sigma=-1.0), r"sigma: got -1.0"),
        (lambda: lj.CTRNN(H, dale_ratio=1.5), r"dale_ratio: got 1.5, wanted .*\[0, 1\]"),
        (
            lambda: lj.AntisymmetricRNN(H, True, b_init=initializers.forget_bias()).init(
                jax.random.key(0), D
            ),
            r"forget_bias.*\('i', 'g'\).*keep gate",
        ),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert ";" in str(error.value)


# ---- noise and Dale's law ------------------------------------------------------------------------
@pytest.mark.grid
@pytest.mark.parametrize("make", [lj.LeakyRNN, lj.CTRNN])
def test_the_noise_of_training(make):
    """Without drive, what a step adds is white, of deviation sqrt(2 alpha) sigma."""
    cell = make(64, "identity", tau=50.0, dt=5.0, sigma=0.3)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, D))
    xs, key = jnp.zeros((400, 5, D)), jax.random.key(1)
    h = np.asarray(lj.unroll(cell, params, xs, key=key)[1])
    added = h - 0.9 * np.concatenate([np.zeros_like(h[:1]), h[:-1]])
    assert added.std() == pytest.approx(np.sqrt(2 * 0.1) * 0.3, rel=0.01)
    assert abs(added.mean()) < 4 * added.std() / np.sqrt(added.size)
    for axis in range(3):  # No correlation from step to step, along the batch, or between units.
        a, b = (np.take(added, range(s, added.shape[axis] - 1 + s), axis) for s in (0, 1))
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
    assert h[100:].std() == pytest.approx(0.3 / np.sqrt(1 - 0.1 / 2), rel=0.05)
    scan = lj.unroll(cell, params, xs, key=key, implementation="scan")[1]
    registry.assert_close(h, np.asarray(scan), 1e-12)
    assert not np.allclose(h, lj.unroll(cell, params, xs, key=jax.random.key(2))[1])
    assert not np.any(lj.unroll(cell, params, xs)[1])


def test_without_sigma_a_key_changes_nothing(rng):
    params, xs, _ = problem(lj.CTRNN(H), rng)
    key = jax.random.key(0)
    registry.assert_close(
        ys_of(lj.CTRNN(H), params, xs, key=key), ys_of(lj.CTRNN(H), params, xs), 1e-12
    )


@pytest.mark.grid
@pytest.mark.parametrize("ratio, count", [(0.0, 0), (0.29, 29), (0.5, 50), (0.8, 80), (1.0, 100)])
def test_dales_law_gives_every_unit_one_sign(ratio, count):
    """Its outgoing weights, which are a row; and they start in balance, of radius one to two."""
    cell = lj.LeakyRNN(100, dale_ratio=ratio)
    w = np.asarray(cell.w_eff(cell.init(KEY, D)))
    assert cell.excitatory == count
    assert (w[:count] >= 0).all() and (w[count:] <= 0).all()
    magnitudes = np.abs(np.linalg.eigvals(w))
    assert np.quantile(magnitudes, 0.9) < 1.1 and 0.8 < magnitudes.max() < 2
    if 0 < count < 100:
        assert abs(w.sum()) < 0.05 * np.abs(w).sum()


def test_training_keeps_dales_law(rng):
    """A large step that turns the sign of every weight of w_hh turns none of w_eff."""
    cell = lj.CTRNN(H, dale_ratio=0.5)
    params, _, _ = problem(cell, rng)
    turned = params | {"w_hh": -params["w_hh"]}
    np.testing.assert_array_equal(cell.w_eff(turned), cell.w_eff(params))


# ---- starts --------------------------------------------------------------------------------------
def start(cell, size=2000):
    return {k: np.asarray(v) for k, v in cell.init(KEY, size).items()}


@pytest.mark.parametrize("make", [lj.MGU, lj.JANET, lj.UGRNN])
def test_the_gate_that_keeps_starts_open(make):
    params = start(make(H), D)
    np.testing.assert_array_equal(params["b"], np.repeat([1.0, 0.0], H))
    np.testing.assert_array_equal(params.get("b_hn", 0), 0)


CHRONO = [lj.GRU, lj.MGU, lj.JANET, lj.UGRNN, lj.MinimalRNN]


@pytest.mark.grid
@pytest.mark.parametrize("double_bias", [False, True])
@pytest.mark.parametrize("make", CHRONO)
def test_chrono_sets_the_gate_that_keeps(make, double_bias):
    """The timescale 1/(1-f) = 1 + e^b is uniform on [2, T] steps, counting both biases."""
    cell = make(2000, b_init=initializers.chrono(100), double_bias=double_bias)
    params = start(cell, 1)
    both = params["b"] + params.get("b_hh", 0)
    b = dict(zip(cell.gate_names, np.split(both, len(cell.gate_names)), strict=True))
    kept = np.exp(b.pop("z" if "z" in b else "f"))
    assert 1 <= kept.min() < 1.5 and 98.5 < kept.max() <= 99 * (1 + 1e-6)
    np.testing.assert_allclose(kept.mean(), 50, rtol=0.05)
    for other in (*b.values(), params.get("b_hn", 0), params.get("b_n", 0)):
        np.testing.assert_array_equal(other, 0)


@pytest.mark.parametrize("make", CHRONO)
def test_chrono_is_the_memory_that_it_says(make):
    """Without input or recurrent weights, h decays by 1 - 1/time a step, unit by unit."""
    cell = make(8, b_init=initializers.chrono(50))
    params = {k: v if k == "b" else jnp.zeros_like(v) for k, v in cell.init(KEY, D).items()}
    _, ys = lj.unroll(cell, params, jnp.zeros((20, D)), lj.State(jnp.ones(8)))
    keep = params["b"][cell.gate_names.index("z" if "z" in cell.gate_names else "f") * 8 :][:8]
    times = 1 + np.exp(np.asarray(keep))
    np.testing.assert_allclose(ys[-1], (1 - 1 / times) ** 20, rtol=1e-6)


def test_independent_weights_start_between_zero_and_one():
    u = start(lj.IndRNN(2000), 1)["w_hh"]
    assert u.shape == (2000,) and 0 <= u.min() < 0.01 and 0.99 < u.max() <= 1
    bound = initializers.uniform(2 ** (1 / 100), low=0.0)
    assert 1 < start(lj.IndRNN(2000, w_hh_init=bound), 1)["w_hh"].max() <= 2 ** (1 / 100)


@pytest.mark.grid
def test_the_flow_starts_normal_and_its_matrix_turns():
    params = start(lj.AntisymmetricRNN(300, True), 200)
    assert params["w_hh"].shape == (300, 300) and params["w_ih"].shape == (200, 600)
    np.testing.assert_allclose(params["w_hh"].var() * 300, 1, rtol=0.05)
    np.testing.assert_allclose(params["w_ih"].var() * 200, 1, rtol=0.05)
    w = params["w_hh"] - params["w_hh"].T
    assert np.abs(np.linalg.eigvals(w).real).max() < 1e-5


# ---- gates ---------------------------------------------------------------------------------------
GATES = {
    "mgu": "f n",
    "janet": "i f g",
    "minimal_rnn": "z n",
    "antisymmetric_gated": "i g",
    "ctrnn": "h",
}


@pytest.mark.parametrize("cell", [lj.IndRNN(H), lj.AntisymmetricRNN(H, True)])
def test_a_shared_or_missing_matrix_is_not_cut_into_gates(cell):
    with pytest.raises(ValueError, match=r"params: got w_hh of shape .*wanted w_hh \[H, G\*H\]"):
        lj.diagnostics.gate_blocks(cell, cell.init(KEY, D))


@pytest.mark.grid
@pytest.mark.parametrize("name", GATES)
def test_the_gates_say_what_they_do(name, rng):
    cell = registry.CASES[name].make(H)
    params, xs, carry = problem(cell, rng)
    params = jax.tree.map(jnp.asarray, params)
    seen = lj.diagnostics.gate_statistics(cell, params, jnp.asarray(xs), carry)
    assert seen.keys() == set(GATES[name].split())
    for gate, statistics in seen.items():
        low = 0 if gate in ("i", "f", "z") else -1
        assert (low < statistics.mean).all() and (statistics.mean < 1).all()
        assert (statistics.forgetting_time is not None) == (gate in ("f", "z"))
    if name == "ctrnn":
        np.testing.assert_allclose(
            seen["h"].mean, lj.unroll(cell, params, xs, carry)[1].mean((0, 1))
        )


def test_modrelu_hides_no_nan():
    """A network that has diverged shows it; at zero the derivative is zero, as that of `sign`."""
    cell = lj.ModReLURNN(3)
    params = cell.init(jax.random.key(0), 2)
    for implementation in ("scan", None):
        _, ys = lj.unroll(cell, params, jnp.full((4, 2), jnp.nan), implementation=implementation)
        assert np.isnan(ys).all()

    def total(xs):
        return jnp.sum(lj.unroll(cell, params, xs)[1])

    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros((1, 2))), 0)
