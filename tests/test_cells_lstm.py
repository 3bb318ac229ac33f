"""The options of LSTM and GRU, against the equations of the papers in NumPy, and against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
import registry
from papers import B, D, H, T, hard_sigmoid, sigmoid

import lstm_jax as lj
from lstm_jax import initializers

pytestmark = pytest.mark.sampled

KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 throughout."""


# ---- the equations, in NumPy ---------------------------------------------------------------------
def preactivations(p, h, x):
    """x W + h U + b of all gates, side by side."""
    a = x @ p["w_ih"] + h @ dense(p["w_hh"])
    return a + p.get("b", 0) + p.get("b_hh", 0)


def dense(w):
    """[H, G*H] of a matrix with heads [N, H/N, G*H/N]."""
    if w.ndim == 2:
        return w
    heads, size, columns = w.shape
    full = np.zeros((heads * size, columns // size, heads * size))
    for n in range(heads):
        rows = slice(n * size, (n + 1) * size)
        full[rows, :, rows] = w[n].reshape(size, -1, size)
    return full.reshape(heads * size, -1)


def lstm(p, carry, x, stored="ifgo", coupled=False, act=sigmoid, g_act=np.tanh, h_act=np.tanh):
    """Greff et al. (2017), appendix: the vanilla LSTM, and each of its variants."""
    h, c = carry
    a = dict(zip(stored, np.split(preactivations(p, h, x), len(stored), axis=-1), strict=True))
    f = act(a["f"] + p.get("w_cf", 0) * c) if "f" in a else 1.0
    i = act(a["i"] + p.get("w_ci", 0) * c) if "i" in a else 1.0
    i = 1 - f if coupled else i
    c = i * g_act(a["g"]) + f * c
    o = act(a["o"] + p.get("w_co", 0) * c) if "o" in a else 1.0
    h = o * h_act(c)
    return (h @ p["w_hr"] if "w_hr" in p else h), c


def gru(p, carry, x, act=sigmoid, n_act=np.tanh, after=True):
    """Cho et al. (2014), with the reset gate after or before the matmul."""
    (h,) = carry
    (x_r, x_z, x_n), (u_r, u_z, u_n) = (
        np.split(a, 3, axis=-1) for a in (x @ p["w_ih"], h @ dense(p["w_hh"]))
    )
    zero = np.zeros(3 * H)
    b_r, b_z, b_n = np.split(p.get("b", zero), 3)
    d_r, d_z, d_n = np.split(p.get("b_hh", zero), 3)
    r, z = act(x_r + u_r + b_r + d_r), act(x_z + u_z + b_z + d_z)
    if after:
        n = n_act(x_n + b_n + r * (u_n + d_n + p.get("b_hn", 0)))
    else:
        n = n_act(x_n + b_n + d_n + (r * h) @ dense(p["w_hh"])[:, 2 * H :])
    return ((1 - z) * n + z * h,)


def with_(step, **options):
    return functools.partial(step, **options)


def same(x):
    return x


def relu(x):
    return np.maximum(x, 0)


EQUATIONS = {
    "lstm_peephole": lstm,
    "lstm_coupled": with_(lstm, stored="fgo", coupled=True),
    "lstm_no_input_gate": with_(lstm, stored="fgo"),
    "lstm_no_forget_gate": with_(lstm, stored="igo"),
    "lstm_no_output_gate": with_(lstm, stored="ifg"),
    "lstm_no_input_activation": with_(lstm, g_act=same),
    "lstm_no_output_activation": with_(lstm, h_act=same),
    "lstm_hard_sigmoid": with_(lstm, act=hard_sigmoid),
    "lstm_projection": lstm,
    "lstm_heads": lstm,
    "lstm_no_bias": lstm,
    "lstm_double_bias": lstm,
    "gru_activations": with_(gru, act=hard_sigmoid, n_act=relu),
    "gru_heads": gru,
    "gru_no_bias": gru,
    "gru_double_bias": gru,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equations_of_the_paper(name, rng):
    papers.check(registry.CASES[name].make(H), EQUATIONS[name], rng)


BEFORE = [
    ({"activation": "relu", "gate_activation": "hard_sigmoid"}, hard_sigmoid, relu),
    ({"double_bias": True, "activation": jnp.sin}, sigmoid, np.sin),
    ({"bias": False, "heads": 2}, sigmoid, np.tanh),
]


@pytest.mark.parametrize("options, act, n_act", BEFORE)
def test_the_options_of_a_gru_with_the_reset_gate_before(options, act, n_act, rng):
    cell = lj.GRU(H, reset_after=False, **options)
    papers.check(cell, with_(gru, act=act, n_act=n_act, after=False), rng)


def test_all_options_together(rng):
    """Peepholes of a coupled pair, no output gate, a projection, functions of the user's own."""
    options = {"coupled": True, "output_gate": False, "peepholes": True, "projection_size": 2}
    acts = {"input_activation": jnp.sin, "output_activation": "relu", "gate_activation": jnp.cos}
    cell = lj.LSTM(H, double_bias=True, **options, **acts)
    assert set(cell.init(KEY, D)) == {"w_ih", "w_hh", "b", "b_hh", "w_cf", "w_hr"}
    numpy = {"act": np.cos, "g_act": np.sin, "h_act": relu}
    papers.check(cell, with_(lstm, stored="fg", coupled=True, **numpy), rng)


# ---- the projection, against torch ---------------------------------------------------------------
@pytest.mark.grid
def test_a_projection_is_torchs(rng):
    """Values, final states and gradients of nn.LSTM(proj_size)."""
    torch = pytest.importorskip("torch")
    cell = lj.LSTM(H, projection_size=3, double_bias=True)
    params, xs, carry = papers.problem(cell, rng)
    module = torch.nn.LSTM(D, H, proj_size=3).double()
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "w_hr": "weight_hr_l0"}
    names |= {"b": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    state = {theirs: torch.tensor(params[ours].T) for ours, theirs in names.items()}
    module.load_state_dict(state)
    theirs, (h, c) = module(torch.tensor(xs), tuple(torch.tensor(s[None]) for s in carry))
    (theirs.sin().sum() + h.sum() + c.cos().sum()).backward()

    def loss(params):
        final, ys = outs = lj.unroll(cell, params, xs, carry)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(final.h) + jnp.sum(jnp.cos(final.c)), outs

    gradient, (final, ys) = jax.jit(jax.grad(loss, has_aux=True))(params)
    registry.assert_close((final.h, final.c), (h[0].detach(), c[0].detach()), 1e-12)
    registry.assert_close(ys, theirs.detach().numpy(), 1e-12)
    wanted = {ours: getattr(module, name).grad.numpy().T for ours, name in names.items()}
    registry.assert_close(gradient, wanted, 1e-12)


@pytest.mark.parametrize("implementation", ["fused", "scan"])
def test_a_projection_in_half_precision(implementation):
    """The matmul of `update` is one of float32: h is as wide as c until it is an output."""
    cell = lj.LSTM(H, projection_size=3, dtype="bfloat16")
    params = cell.init(KEY, D)
    run = functools.partial(lj.unroll, cell, implementation=implementation)
    final, ys = jax.eval_shape(run, params, jnp.zeros((T, B, D), jnp.bfloat16))
    assert final == lj.LSTMState(*(jax.ShapeDtypeStruct((B, n), jnp.float32) for n in (3, H)))
    assert ys.shape == (T, B, 3) and ys.dtype == jnp.bfloat16
    text = jax.jit(run).lower(params, jnp.zeros((T, B, D), jnp.bfloat16)).as_text()
    assert "(tensor<3x4xf32>, tensor<4x3xf32>) -> tensor<3x3xf32>" in text


@pytest.mark.grid
def test_a_projection_in_a_net():
    """The next layer sees P numbers, and so do the wrappers that draw masks for h."""
    inner = lj.LSTM(H, projection_size=3)
    net = lj.recurrent_dropout(lj.stack(lj.bidirectional(inner), lj.residual(inner)), 0.3)
    with pytest.raises(ValueError, match="net: got D = 6"):
        net.init(KEY, D)
    net = lj.learned_start(lj.zoneout(lj.stack(lj.bidirectional(inner), inner), h=0.2, c=0.1))
    params, xs = net.init(KEY, D), jnp.zeros((T, B, D))
    final, ys = jax.eval_shape(lambda: lj.unroll(net, params, xs, key=KEY))
    assert ys.shape == (T, B, 3) and params["1"]["w_ih"].shape == (6, 4 * H)
    assert [leaf.shape for leaf in final[1]] == [(B, 3), (B, H)]


# ---- parameters ----------------------------------------------------------------------------------
SHAPES = {
    "lstm_peephole": {"w_ci": (H,), "w_cf": (H,), "w_co": (H,)},
    "lstm_coupled": {"w_ih": (D, 3 * H), "w_hh": (H, 3 * H), "b": (3 * H,)},
    "lstm_no_forget_gate": {"w_ih": (D, 3 * H), "w_hh": (H, 3 * H), "b": (3 * H,)},
    "lstm_projection": {"w_hh": (3, 4 * H), "w_hr": (H, 3), "w_co": (H,)},
    "lstm_heads": {"w_hh": (2, 2, 8)},
    "lstm_double_bias": {"b_hh": (4 * H,)},
    "gru_double_bias": {"b": (3 * H,), "b_hh": (3 * H,)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_the_parameters(name):
    params = registry.CASES[name].make(H).init(KEY, D)
    assert SHAPES[name].items() <= {key: p.shape for key, p in params.items()}.items()


def test_the_defaults_are_the_plain_cells():
    """No option leaves a trace in the parameters."""
    assert set(lj.LSTM(H).init(KEY, D)) == {"w_ih", "w_hh", "b"}
    assert set(lj.GRU(H).init(KEY, D)) == {"w_ih", "w_hh", "b", "b_hn"}
    assert lj.LSTM(H).gate_names == ("i", "f", "g", "o") and lj.LSTM(H).elementwise == ()
    peepholes = dict.fromkeys(("w_ci", "w_cf", "w_co"), jnp.zeros(H))
    wanted = lj.LSTM(H).init(KEY, D) | peepholes
    registry.assert_close(lj.LSTM(H, peepholes=True).init(KEY, D), wanted, 0)


def test_peepholes_of_the_gates_that_there_are():
    def peepholes(**options):
        names = lj.LSTM(H, peepholes=True, **options).init(KEY, D)
        return sorted(name for name in names if name.startswith("w_c"))

    assert peepholes(coupled=True) == peepholes(input_gate=False) == ["w_cf", "w_co"]
    assert peepholes(forget_gate=False, output_gate=False) == ["w_ci"]


def biases(cell):
    b = np.split(np.asarray(cell.init(KEY, D)["b"]), len(cell.gate_names))
    return dict(zip(cell.gate_names, b, strict=True))


@pytest.mark.parametrize("name", [name for name in EQUATIONS if name.startswith("lstm")])
def test_the_forget_bias_is_found_by_name(name):
    cell = registry.CASES[name].make(H)
    if cell.bias:
        for gate, b in biases(cell).items():
            assert (b == (gate == "f")).all()


@pytest.mark.grid
def test_chrono_finds_its_gates_by_name():
    both = biases(lj.LSTM(200, b_init=initializers.chrono(50)))
    assert (both["i"] == -both["f"]).all() and 0 < both["f"].min() < both["f"].max() < np.log(49)
    coupled = biases(lj.LSTM(200, coupled=True, b_init=initializers.chrono(50)))
    assert 0 < coupled["f"].min() < coupled["f"].max() < np.log(49)
    assert not coupled["g"].any() and not coupled["o"].any()


def test_a_forget_bias_asked_for_without_a_forget_gate():
    """The default has nothing to set; one that was asked for says so."""
    cell = lj.LSTM(H, forget_gate=False)
    assert cell == lj.LSTM(H, forget_gate=False, b_init=initializers.zeros())
    assert not cell.init(KEY, D)["b"].any()
    with pytest.raises(ValueError, match=r"forget_bias\(value=2.0.*\('i', 'g', 'o'\)"):
        lj.LSTM(H, forget_gate=False, b_init=initializers.forget_bias(2.0)).init(KEY, D)


# ---- gates ---------------------------------------------------------------------------------------
def test_the_gates_of_a_peephole_cell(rng):
    """o is the gate that made h: it has seen c_t."""
    cell = lj.LSTM(H, peepholes=True, output_activation="identity", projection_size=3)
    params, xs, carry = papers.problem(cell, rng)
    arguments = (carry, cell.project(params, jnp.asarray(xs[0])), cell.recur(params, carry))
    gates = cell.gates(*arguments, **cell.extras(params))
    h, c = lstm(params, carry, xs[0], h_act=same)
    assert list(gates) == ["i", "f", "g", "o"]
    registry.assert_close((gates["o"] * c) @ params["w_hr"], h, 1e-12)
    registry.assert_close(gates["f"] * carry.c + gates["i"] * gates["g"], c, 1e-12)


@pytest.mark.parametrize(
    "name, gates",
    [
        ("lstm_coupled", "ifgo"),
        ("lstm_no_input_gate", "fgo"),
        ("lstm_no_forget_gate", "igo"),
        ("lstm_no_output_gate", "ifg"),
        ("lstm_projection", "ifgo"),
        ("lstm_hard_sigmoid", "ifgo"),
        ("lstm_no_input_activation", "ifgo"),
        ("gru_activations", "rzn"),
    ],
)
def test_statistics_of_the_gates_that_there_are(name, gates, rng):
    cell = registry.CASES[name].make(H)
    params, xs, carry = papers.problem(cell, rng)
    found = lj.diagnostics.gate_statistics(cell, params, jnp.asarray(xs), carry)
    assert set(found) == set(gates)
    if name == "lstm_coupled":
        registry.assert_close(found["i"].mean, 1 - found["f"].mean, 1e-12)
    known = {gate for gate, statistics in found.items() if statistics.saturated is not None}
    unknown = {"lstm_no_input_activation": {"g"}, "gru_activations": {"n"}}
    assert known == set(gates) - unknown.get(name, set())
    assert (name == "gru_activations") == any(gate.dead is not None for gate in found.values())


# ---- errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: lj.LSTM(H, coupled=True, forget_gate=False), r"coupled: got True .*forget_gate=F"),
        (lambda: lj.LSTM(H, coupled=True, input_gate=False), r"coupled: got True .*input_gate=F"),
        (lambda: lj.LSTM(H, projection_size=0), r"projection_size: got 0"),
        (lambda: lj.LSTM(H, projection_size=2, heads=2), r"projection_size: got 2.*heads"),
        (lambda: lj.LSTM(H, input_activation="swish"), r"input_activation: got 'swish'"),
        (lambda: lj.LSTM(H, output_activation="sigmoid"), r"output_activation: got 'sigmoid'"),
        (lambda: lj.LSTM(H, gate_activation="tanh"), r"gate_activation: got 'tanh'.*hard_sigmoid"),
        (lambda: lj.GRU(H, activation="sigmoid"), r"activation: got 'sigmoid'"),
        (lambda: lj.GRU(H, gate_activation="relu"), r"gate_activation: got 'relu'"),
        (lambda: lj.ConvLSTM(H, (3,), (5,), peepholes=True), r"peepholes: got True"),
        (lambda: lj.ConvLSTM(H, (3,), (5,), projection_size=2), r"projection_size: got 2"),
    ],
)
def test_errors_name_the_argument_and_the_remedy(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert ";" in str(error.value)


def test_options_are_keywords():
    with pytest.raises(TypeError):
        lj.LSTM(H, True)  # type: ignore
    with pytest.raises(TypeError):
        lj.GRU(H, True, "tanh")  # type: ignore
