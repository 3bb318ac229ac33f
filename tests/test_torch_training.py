"""Training begun in PyTorch goes on here: the same next steps of clipped SGD, with both biases.

PyTorch adds b_ih and b_hh, each with the gradient of the sum, so a step of SGD moves the sum twice
as far as it moves one bias. The two must stay two: merged, they learn at half the speed, and the
norm that the clip sees is another.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry

import lstm_jax as lj
from lstm_jax.interop import from_torch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.grid

T, B, D, H = 6, 4, 3, 5
LR, MAX_NORM = 0.5, 0.05
MODULES = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def problem(rng):
    """(xs, targets), in float32."""
    return [rng.standard_normal(shape, np.float32) for shape in ((T, B, D), (T, B, H))]


class Theirs:
    """A PyTorch module under clip_grad_norm_ and SGD."""

    def __init__(self, name, max_norm):
        torch.manual_seed(3)
        self.module = MODULES[name](D, H)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=LR)
        self.max_norm = max_norm

    def step(self, xs, targets):
        """One step; -> the norm of the gradients before the clip."""
        self.optimizer.zero_grad()
        ys, _ = self.module(torch.from_numpy(xs))
        torch.mean((ys - torch.from_numpy(targets)) ** 2).backward()
        limit = float("inf") if self.max_norm is None else self.max_norm
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        self.optimizer.step()
        return float(norm)


def trained(name, max_norm, batch):
    """After five steps there."""
    theirs = Theirs(name, max_norm)
    for _ in range(5):
        theirs.step(*batch)
    return theirs


def stepper(net, params, max_norm):
    """(the same step here: (params, state, xs, targets) -> (params, state), its first state)."""
    tx = lj.clipped_sgd(LR, max_norm=max_norm)

    def loss(params, xs, targets):
        return jnp.mean((lj.unroll(net, params, xs)[1] - targets) ** 2)

    @jax.jit
    def step(params, state, xs, targets):
        updates, state = tx.update(jax.grad(loss)(params, xs, targets), state)
        return optax.apply_updates(params, updates), state

    return step, tx.init(params)


def clip_rate(state):
    return float(lj.optim.report(state)["clip_rate"])


@pytest.mark.parametrize("max_norm", [MAX_NORM, None], ids=["clipped", "whole"])
@pytest.mark.parametrize("name", MODULES)
def test_the_next_steps_are_pytorchs(name, max_norm, rng):
    """Three of them, clipped and not."""
    batch = problem(rng)
    theirs = trained(name, max_norm, batch)
    net, params = from_torch(theirs.module, double_bias=True)
    step, state = stepper(net, params, max_norm)
    for _ in range(3):
        before = params
        norm = theirs.step(*batch)
        params, state = step(params, state, *batch)
        registry.assert_close(params, from_torch(theirs.module, double_bias=True)[1], 1e-6)
        assert float(state.norm_before) == pytest.approx(norm, rel=1e-5)
        assert all(
            np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (params, before)), strict=True)
        )
    assert clip_rate(state) == (max_norm is not None)


def test_merged_biases_move_half_as_far(rng):
    """So that the test above can fail: the same but for b, which goes half of PyTorch's way."""
    batch = problem(rng)
    theirs = trained("lstm", None, batch)
    net, before = from_torch(theirs.module)
    theirs.step(*batch)
    wanted = from_torch(theirs.module)[1]
    step, state = stepper(net, before, None)
    seen, _ = step(before, state, *batch)
    moved, theirs_moved = (jax.tree.map(jnp.subtract, new, before) for new in (seen, wanted))
    assert np.max(np.abs(theirs_moved["b"])) > 1e-3
    halved = theirs_moved | {"b": theirs_moved["b"] / 2}
    registry.assert_close(moved, halved, 1e-6)


def test_merged_biases_are_clipped_otherwise(rng):
    """The norm counts one bias in place of two: even the weights move by another length."""
    batch = problem(rng)
    theirs = trained("lstm", MAX_NORM, batch)
    net, before = from_torch(theirs.module)
    norm = theirs.step(*batch)
    wanted = from_torch(theirs.module)[1]
    step, state = stepper(net, before, MAX_NORM)
    seen, state = step(before, state, *batch)
    assert clip_rate(state) == 1 and float(state.norm_before) < 0.99 * norm
    for name in ("w_ih", "w_hh", "b"):
        assert np.max(np.abs(seen[name] - wanted[name])) > 1e-5
