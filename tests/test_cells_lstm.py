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


def lstm(p, carry, x, stored="ifgo", act=sigmoid, g_act=np.tanh, h_act=np.tanh):
    """Graves & Schmidhuber (2005) with Greff et al.'s (2017) ablations: all gates but `stored`."""
    h, c = carry
    a = dict(zip(stored, np.split(preactivations(p, h, x), len(stored), axis=-1), strict=True))
    f = act(a["f"] + p.get("w_cf", 0) * c) if "f" in a else 1.0
    i = act(a["i"] + p.get("w_ci", 0) * c) if "i" in a else 1.0
    if stored == "fgo":
        i = 1 - f
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


LSTM = {
    "lstm_peephole": lstm,
    "lstm_coupled": with_(lstm, stored="fgo"),
    "lstm_no_input_gate": with_(lstm, stored="fgo"[:2] + "o"),
    "lstm_no_forget_gate": with_(lstm, stored="igo"),
    "lstm_no_output_gate": with_(lstm, stored="ifg"),
    "lstm_no_input_activation": with_(lstm, g_act=same),
    "lstm_no_output_activation": with_(lstm, h_act=same),
    "lstm_hard_sigmoid": with_(lstm, act=hard_sigmoid),
    "lstm_projection": lstm,
    "lstm_heads": lstm,
    "lstm_no_bias": lstm,
    "lstm_double_bias": lstm,
}
