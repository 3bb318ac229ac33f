"""Strict settings for every test, programs compiled in haste, and keys that print their seed."""

import gc
import itertools
import os

import haste

# Small LAPACK calls lose a hundredfold to threads that wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

os.environ["XLA_FLAGS"] = haste.flags(os.environ.get("XLA_FLAGS", ""))

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

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
    """Of each `sampled` test the first parameters run every day; the others belong to the grid."""
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
    """Each compiled function keeps pages of memory, of which a process may have only so many."""
    if next(_DONE) % 500 == 0:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def seed(request) -> int:
    """A seed of the test's own name; printed when the test fails."""
    value = sum(ord(letter) * 31**i for i, letter in enumerate(request.node.nodeid)) % 2**31
    print(f"seed {value}")
    return value


@pytest.fixture
def key(seed):
    """A random key of the test's own."""
    return jax.random.key(seed)


@pytest.fixture
def rng(seed):
    """A NumPy generator of the test's own."""
    return np.random.default_rng(seed)


@pytest.fixture
def x64():
    """float64 on, for this test."""
    with jax.enable_x64(True):
        yield
