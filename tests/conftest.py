"""Settings of all tests: strict promotion, fast compilation, and seeds that a failure prints."""

import gc
import itertools
import os

import haste

# Threads that wait for each other make small LAPACK calls a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

os.environ["XLA_FLAGS"] = haste.flags(os.environ.get("XLA_FLAGS", ""))

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traces leave millions of small objects behind, which would be looked through again and again.
gc.set_threshold(100_000, 20, 20)

settings.register_profile(
    "lstm_jax",
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("lstm_jax")


@pytest.hookimpl(tryfirst=True)  # Before pytest chooses by marker.
def pytest_collection_modifyitems(items):
    """Mark every set of parameters of a `sampled` test but the first as "grid"."""
    seen = set()
    for item in items:
        if item.get_closest_marker("sampled") and not _elsewhere(item):
            function = item.path, item.originalname
            if function in seen:
                item.add_marker("grid")
            seen.add(function)


def _elsewhere(item):
    return item.get_closest_marker("slow") or item.get_closest_marker("grid")


_DONE = itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    """Clear JAX's caches now and then, as each compiled function takes memory maps."""
    if next(_DONE) % 500 == 0:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def seed(request) -> int:
    """A seed derived from the test's name; printed if the test fails."""
    value = sum(ord(letter) * 31**i for i, letter in enumerate(request.node.nodeid)) % 2**31
    print(f"seed {value}")
    return value


@pytest.fixture
def key(seed):
    """A random key for the test."""
    return jax.random.key(seed)


@pytest.fixture
def rng(seed):
    """A NumPy generator for the test."""
    return np.random.default_rng(seed)


@pytest.fixture
def x64():
    """Enable float64 for this test."""
    with jax.enable_x64(True):
        yield
