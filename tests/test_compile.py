"""Compiled programs: one for equal shapes, no host in the loop, one matmul for dw_hh."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from lowered import operations
from registry import CASES

import lstm_jax as lj
from lstm_jax._recurrence import equations
from lstm_jax._recurrence.engines.fused import ROUND, loop_on
from lstm_jax._recurrence.primitive import binding

pytestmark = pytest.mark.sampled

T, B, D, H = 5, 2, 3, 4
FLAGS = {"seq_lengths": np.array([5, 3]), "resets": np.eye(T, B, -2, dtype=bool)}

FUSED = [case.name for case in CASES.values() if "fused" in case.implementations]
# Those whose recurrence is h @ w_hh itself: the shapes of its matmuls can be looked for.
MATMUL = [name for name in FUSED if type(CASES[name].make(1)).recur is lj.Cell.recur]
# And those with another matmul inside `update`, or one with a batch of heads.
APART = {"lstm_projection", "lstm_heads", "gru_heads"}


def arguments(case, seed=0):
    """(params, xs, carry) in float32."""
    rng, cell = np.random.default_rng(seed), case.make(H)
    params = registry.random_params(cell, D, rng)
    carry = registry.random_carry(cell, params, (B,), rng)
    return registry.cast((params, rng.standard_normal((T, B, D)), carry), jnp.float32)


def loss(case, implementation=None, **options):
    def value(args):
        # A cell of its own each time: equal, and not the same object.
        outs = lj.unroll(case.make(H), *args, **FLAGS, implementation=implementation, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outs))

    return value


# ---- no recompilation ----------------------------------------------------------------------------
@contextlib.contextmanager
def counted():
    """Yields the list that every compilation is added to."""
    events = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.clear_event_listeners()


@registry.grid(dear=True)
def test_the_second_call_compiles_nothing(case, implementation):
    """Without a jit of the caller's, values and gradients."""
    check_second_call(case, implementation)


@registry.grid(["lstm"])
def test_the_second_call_compiles_nothing_with_remat(case, implementation):
    check_second_call(case, implementation, remat=2)


def check_second_call(case, implementation, **options):
    first, second = arguments(case), arguments(case, 1)
    with counted() as events:
        jax.value_and_grad(loss(case, implementation, **options))(first)
        assert events
        events.clear()
        jax.value_and_grad(loss(case, implementation, **options))(second)
        assert not events


@registry.grid()
def test_a_jitted_call_traces_once(case, implementation):
    """The cell as a static argument: an equal one finds the traced function."""
    traces = []

    @jax.jit(static_argnums=0)
    def run(cell, args):
        traces.append(cell)
        return lj.unroll(cell, *args, **FLAGS, implementation=implementation)

    run(case.make(H), arguments(case))
    run(case.make(H), arguments(case, 1))
    assert len(traces) == 1


# ---- no host -------------------------------------------------------------------------------------
def goes_to_the_host(function, args, loops=True):
    """Whether a callback, a feed or a transfer stands in what the compiler is given."""
    text = jax.jit(function).lower(args).as_text()
    assert loops == ("stablehlo.while" in text)
    return bool(re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)|annotate_device", text))


@pytest.mark.parametrize("remat", [None, 2])
@registry.grid()
def test_no_host_in_the_loop(case, implementation, remat):
    """Forwards and backwards, with every flag."""
    gradient = jax.value_and_grad(loss(case, implementation, remat=remat))
    loops = implementation not in ("associative", "native") or remat is not None
    assert not goes_to_the_host(gradient, arguments(case), loops)


def test_a_host_in_the_loop_is_seen():
    """So that the test above can fail."""

    def activation(x):
        jax.debug.callback(lambda: None)
        return jnp.tanh(x)

    params, xs, _ = arguments(CASES["rnn_tanh"])
    assert goes_to_the_host(lambda xs: lj.unroll(lj.RNN(H, activation), params, xs), xs)


# ---- the gradient of w_hh ------------------------------------------------------------------------
@registry.cells([name for name in MATMUL if name not in APART])
def test_the_gradient_of_each_weight_is_one_matmul_after_the_loop(case):
    """And the loops hold one matmul a step: h w_hh forwards, its transpose backwards."""
    params, *_ = args = arguments(case)
    lowered = jax.jit(jax.grad(loss(case, "fused"))).lower(args)
    found = operations(lowered, "stablehlo.dot_general")
    for name in ("w_ih", "w_hh"):
        shape = params[name].shape
        same = [inside for seen, inside in found if sorted(seen) == sorted(shape)]
        assert same == [False] * sum(sorted(p.shape) == sorted(shape) for p in params.values())
    width = params["w_hh"].shape[1]
    assert sorted(seen for seen, inside in found if inside) == sorted([(B, width), (B, H)])


@registry.cells(MATMUL)
def test_the_loops_carry_no_gradient_of_a_weight(case):
    """[H, G*H] in no loop's carry, while plain "scan" has it there: so it is looked for rightly."""
    params, *_ = args = arguments(case)
    shape = "x".join(map(str, params["w_hh"].shape)) + "xf32"

    def accumulated(implementation):
        """Loops that add to an array of w_hh's shape."""
        text = jax.jit(jax.grad(loss(case, implementation))).lower(args).as_text()
        return len(re.findall(rf"stablehlo\.add.*tensor<{shape}>", text))

    assert accumulated("fused") == 0 and accumulated("scan") > 0


# ---- memory and buffers --------------------------------------------------------------------------
def temporary(case, implementation, remat):
    """Bytes that a gradient over 1024 steps needs besides its arguments and results."""
    cell, args = case.make(32), None
    rng = np.random.default_rng(0)
    params = registry.random_params(cell, 8, rng)
    args = registry.cast((params, rng.standard_normal((1024, 4, 8))), jnp.float32)

    def total(args):
        _, ys = lj.unroll(cell, *args, implementation=implementation, remat=remat)
        return jnp.sum(ys[-1])

    compiled = jax.jit(jax.grad(total)).lower(args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.grid
@pytest.mark.parametrize("implementation", ["fused", "scan"])
def test_remat_bounds_the_memory(implementation):
    case = CASES["lstm"]
    everything = temporary(case, implementation, None)
    assert temporary(case, implementation, "sqrt") < everything / 4


@registry.grid(dear=True)
def test_donated_buffers(case, implementation):
    """A stream that gives its carry away: the next one takes its place."""

    @jax.jit(donate_argnums=1)
    def chunk(args, carry):
        return lj.unroll(case.make(H), *args, carry, implementation=implementation)

    params, xs, carry = arguments(case)
    wanted = lj.unroll(case.make(H), params, xs, carry, implementation=implementation)
    seen = chunk((params, xs), carry)
    registry.assert_close(seen, wanted, 1e-6)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))


# ---- a GPU ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_a_gpu_takes_several_steps_a_round(platform):
    """Its program has the matmul of so many steps more than a CPU's, in line or as calls."""
    cell, xs = lj.LSTM(H), jnp.zeros((2 * ROUND + 1, B, D))
    run = jax.jit(functools.partial(lj.unroll, cell, implementation="fused"))
    traced = run.trace(cell.init(jax.random.key(0), D), xs)

    def counts(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return np.array([text.count(operation) for operation in ("call @", "dot_general")])

    assert max(counts(platform) - counts("cpu")) == ROUND


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_rounds_of_several_steps_give_the_same(name, monkeypatch):
    """All three loops, with a mask and restarts, where steps are left of the last round."""
    case = CASES[name]
    args = arguments(case)

    def both(args):
        slopes, tangents = jax.grad(loss(case, "fused")), jax.tree.map(jnp.ones_like, args)
        return slopes(args), jax.jvp(loss(case, "fused"), (args,), (tangents,))

    wanted, loop = jax.jit(both)(args), loop_on("cuda")
    binding._jitted.cache_clear()
    monkeypatch.setattr(equations, "scan", lambda *given, of=equations.scan: of(*given[:-1], loop))
    registry.assert_close(jax.jit(lambda args: both(args))(args), wanted, 1e-5)
    binding._jitted.cache_clear()
