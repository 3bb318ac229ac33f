"""Tasks: each convention recomputed in NumPy from what was drawn, and its baseline measured."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax.data import TASKS
from lstm_jax.data.adding import Adding
from lstm_jax.data.copy_memory import CopyMemory
from lstm_jax.data.group_words import GroupWords
from lstm_jax.data.noise_padded import NoisePadded
from lstm_jax.data.parity import Parity
from lstm_jax.data.reber import Reber
from lstm_jax.data.temporal_order import TemporalOrder

pytestmark = pytest.mark.sampled

URNN = Adding(13)
TASKS_DRAWN = [
    URNN,
    Adding(12, "cybertronai"),
    Adding(12, "scornn"),
    Adding(5, "tcn"),
    Adding(25, "pascanu"),
    Adding(100, "hs97"),
    *(CopyMemory(7, variant) for variant in ("urnn", "exprnn", "tcn", "janet")),
    TemporalOrder(37, "pascanu", 2),
    TemporalOrder(37, "pascanu", 3),
    TemporalOrder(100, "hs97", 2),
    TemporalOrder(100, "hs97", 3),
    *(Parity(9, variant) for variant in ("running", "deletang", "grazzi")),
    GroupWords(7),
    GroupWords(5, "swaps", "S4"),
    GroupWords(3, group="A5"),
    Reber(25),
    Reber(40, "embedded"),
    Reber(12, "plain"),
    NoisePadded(5, informative=4, strength=2.0),
]
ONE_OF_EACH = [Adding(30, "hs97"), CopyMemory(5), TemporalOrder(20, "hs97", 3)]
ONE_OF_EACH += [Parity(6, "grazzi"), GroupWords(5), Reber(12, "embedded"), NoisePadded(5)]
OF_SEVERAL_LENGTHS = ("hs97", "deletang", "grazzi", "embedded", "plain")
ALIASES = {"janet": "urnn", "chrono": "urnn", "hu2018": "le2015", "le2015": "tcn"}
MANY = 10_000

every_task = pytest.mark.parametrize("task", TASKS_DRAWN, ids=str)


@functools.cache
def drawn(task):
    """A large batch, drawn once for all tests."""
    return jax.jit(task.sample, static_argnums=1)(jax.random.key(0), MANY)


def draw(task):
    """`drawn` as NumPy, the batch axis first: xs [B, T, D], targets [B, T, ...], mask [B, T], l."""
    batch = drawn(task)
    lengths = np.full(MANY, task.total_length) if batch.seq_lengths is None else batch.seq_lengths
    first = [np.swapaxes(np.asarray(a), 0, 1) for a in (batch.xs, batch.targets, batch.mask)]
    return *first, np.asarray(lengths)


# Every task ----------------------------------------------------------------------------------


@every_task
def test_shapes_and_dtypes(task):
    batch = jax.eval_shape(lambda key: task.sample(key, 7), jax.random.key(0))
    assert batch.xs.shape == (task.total_length, 7, task.input_size)
    assert batch.xs.dtype == jnp.float32
    if isinstance(task, Adding):
        assert task.kind == "regression" and task.output_size == 1 and task.input_size == 2
        assert batch.targets.shape == (task.total_length, 7, 1)
        assert batch.targets.dtype == jnp.float32
    else:
        assert task.kind == "classification"
        assert batch.targets.shape == (task.total_length, 7)
        assert batch.targets.dtype == jnp.int32
    assert batch.mask.shape == (task.total_length, 7) and batch.mask.dtype == jnp.bool_
    variable = getattr(task, "variant", "") in OF_SEVERAL_LENGTHS or task == Adding(25, "pascanu")
    assert (batch.seq_lengths is not None) == variable
    if variable:
        assert batch.seq_lengths.shape == (7,) and batch.seq_lengths.dtype == jnp.int32
    else:
        assert task.total_length == batch.mask.shape[0]


@pytest.mark.parametrize("task", ONE_OF_EACH, ids=str)
def test_vmap_agrees_and_the_key_decides(task):
    key, other = jax.random.key(0), jax.random.key(1)
    batch = jax.jit(task.sample, static_argnums=1)(key, 4)
    keys = jnp.stack([key, other])
    stacked = jax.jit(jax.vmap(lambda k: task.sample(k, 4)))(keys)
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_array_equal(a, b[0])
    assert not np.array_equal(stacked.xs[0], stacked.xs[1])
    assert not np.array_equal(batch.xs[:, 0], batch.xs[:, 1])


@every_task
def test_tasks_are_frozen_and_hashable(task):
    assert hash(task) == hash(dataclasses.replace(task)) and task == dataclasses.replace(task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.length = 3


@every_task
def test_no_float64_or_int64_with_x64_on(task):
    with jax.enable_x64(True):
        wide = jax.eval_shape(lambda key: task.sample(key, 3), jax.random.key(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(wide)} <= {"float32", "int32", "bool"}


@every_task
def test_baseline_is_the_best_constant_answer(task):
    """Score, with the task's own loss, the best outputs that do not look at xs."""
    batch, loss = jax.tree.map(np.asarray, drawn(task)), jax.jit(task.loss)
    shape = (*batch.mask.shape, task.output_size)
    if task.kind == "regression":
        ys = np.full(shape, batch.targets[batch.mask].mean(), np.float32)
        assert loss(ys + np.float32(0.1), batch) > loss(ys, batch)
    else:
        # One distribution for each step, from the counts of the answers that count there.
        classes, counted = np.arange(task.output_size), batch.mask[..., None]
        answers = ((batch.targets[..., None] == classes) & counted).sum(1, keepdims=True)
        answers = answers / np.maximum(counted.sum(1, keepdims=True), 1)
        ys = np.broadcast_to(np.log(answers + 1e-9), shape).astype(np.float32)
    np.testing.assert_allclose(loss(ys, batch), task.baseline, rtol=0.04)


@pytest.mark.parametrize("task", [Adding(100, "hs97"), TemporalOrder(100, "hs97", 3)], ids=str)
def test_steps_that_do_not_count_are_not_felt(task):
    batch = jax.tree.map(np.asarray, drawn(task))
    ys = np.random.default_rng(0).normal(size=(*batch.mask.shape, task.output_size))
    ys = ys.astype(np.float32)
    poisoned = np.where(batch.mask[..., None], ys, np.float32(np.nan))
    loss_and_grad = jax.jit(jax.value_and_grad(task.loss))
    (value, grad), (expected, _) = loss_and_grad(poisoned, batch), loss_and_grad(ys, batch)
    assert value == expected and np.all(np.isfinite(grad)) and np.any(grad != 0)


def test_the_registry_names_every_task():
    states = {"group-words": GroupWords, "parity": Parity}
    others = {"adding": Adding, "copy": CopyMemory, "temporal-order": TemporalOrder}
    others |= {"noise-padded": NoisePadded, "reber": Reber}
    assert TASKS == states | others
    for constructor in TASKS.values():
        assert constructor(length=20).baseline > 0


@pytest.mark.parametrize(("alias", "variant"), ALIASES.items())
def test_aliases_are_the_same_computation(alias, variant):
    def computation(name):
        jaxpr = jax.make_jaxpr(lambda key: Adding(9, name).sample(key, 2))(jax.random.key(0))
        return str(jaxpr), [np.asarray(const).tolist() for const in jaxpr.consts]

    assert computation(alias) == computation(variant) != computation("scornn")
    assert Adding(9, alias).baseline == Adding(9, variant).baseline


# Exact baselines (published, or closed form) -------------------------------------------------


@pytest.mark.parametrize("variant", ["urnn", "janet", "chrono", "scornn", "tcn", "le2015"])
def test_adding_baseline_one_sixth(variant):
    assert Adding(100, variant).baseline == pytest.approx(1 / 6, rel=1e-14)


def test_adding_baselines_of_the_scaled_forms():
    assert Adding(100, "hu2018").baseline == pytest.approx(1 / 6, rel=1e-14)
    assert Adding(100, "cybertronai").baseline == pytest.approx(2 / 3, rel=1e-14)
    assert Adding(100, "pascanu").baseline == pytest.approx(1 / 24, rel=1e-14)
    first_pair = 1 / 10 + 9 / 10 / 49
    assert Adding(100, "hs97").baseline == pytest.approx((1 - first_pair / 2) / 24, rel=1e-14)
    assert 0.94 / 24 < Adding(100, "hs97").baseline < 1 / 24


def test_hs97_adding_variance_shows_the_zeroed_first_pair():
    """1/24, without the rule for the first pair, is 6 % too much: here they are told apart."""
    task = Adding(100, "hs97")
    variance = draw(task)[1][:, 0, 0].astype(np.float64).var()
    assert variance == pytest.approx(task.baseline, rel=0.03)
    assert variance < 0.97 / 24


@pytest.mark.parametrize(
    ("length", "baseline"),
    [
        (30, 0.415888),
        (50, 0.297063),
        (100, 0.173287),
        (200, 0.094520),
        (300, 0.064983),
        (500, 0.039989),
        (750, 0.027006),
        (1000, 0.020387),
        (2000, 0.010294),
    ],
)
@pytest.mark.parametrize("variant", ["urnn", "exprnn", "tcn"])
def test_copy_baseline(variant, length, baseline):
    assert CopyMemory(length, variant).baseline == pytest.approx(baseline, abs=5e-7)


def test_copy_baseline_of_the_longer_form_and_other_sizes():
    assert CopyMemory(100, "janet").baseline == pytest.approx(10 * math.log(8) / 121, rel=1e-14)
    task = CopyMemory(7, symbols=3, width=2)
    assert task.total_length == 11 and task.baseline == pytest.approx(2 * math.log(3) / 11)


def test_temporal_order_baseline():
    assert TemporalOrder(50).baseline == pytest.approx(1.3862943611, rel=1e-10)
    assert TemporalOrder(50, "hs97", 3).baseline == pytest.approx(2.0794415417, rel=1e-10)


# Adding --------------------------------------------------------------------------------------


def adding_parts(task):
    """values [B, T], marks [B, T], target [B], lengths [B]; the target checked to be repeated."""
    xs, targets, mask, lengths = draw(task)
    marks, values = (xs[..., 0], xs[..., 1])
    if task.variant != "pascanu":
        marks, values = values, marks
    np.testing.assert_array_equal(targets, np.broadcast_to(targets[:, :1], targets.shape))
    steps = np.arange(task.total_length)
    np.testing.assert_array_equal(mask, steps == lengths[:, None] - 1)
    np.testing.assert_array_equal(xs[steps >= lengths[:, None]], 0.0)
    return values, marks, targets[:, 0, 0], lengths


def two_marks(marks):
    """The two marked positions [B, 2], in order; every other mark must be exactly 0."""
    assert np.all((marks == 0) | (marks == 1)) and np.all(marks.sum(1) == 2)
    return np.nonzero(marks)[1].reshape(-1, 2)


@pytest.mark.parametrize(("variant", "length"), [("urnn", 13), ("cybertronai", 12)])
def test_adding_halves(variant, length):
    values, marks, target, _ = adding_parts(Adding(length, variant))
    p = two_marks(marks)
    half = length // 2
    assert set(p[:, 0]) == set(range(half)) and set(p[:, 1]) == set(range(half, 2 * half))
    low = -1.0 if variant == "cybertronai" else 0.0
    assert low <= values.min() < low + 0.01 and 0.99 < values.max() < 1.0
    np.testing.assert_allclose(target, np.take_along_axis(values, p, 1).sum(1), rtol=1e-6)


def test_adding_scornn():
    length = 12
    values, marks, target, _ = adding_parts(Adding(length, "scornn"))
    p, split = two_marks(marks), (length - 1) // 2
    assert set(p[:, 0]) == set(range(split)) and set(p[:, 1]) == set(range(split, length))
    np.testing.assert_allclose(target, np.take_along_axis(values, p, 1).sum(1), rtol=1e-6)


def test_adding_anywhere_draws_every_pair_equally():
    length = 5
    values, marks, target, _ = adding_parts(Adding(length, "tcn"))
    p = two_marks(marks)
    np.testing.assert_allclose(target, np.take_along_axis(values, p, 1).sum(1), rtol=1e-6)
    pairs, counts = np.unique(p, axis=0, return_counts=True)
    assert len(pairs) == length * (length - 1) // 2
    np.testing.assert_allclose(counts / MANY, 1 / len(pairs), atol=0.03)


@pytest.mark.parametrize("length", [10, 25])
def test_adding_pascanu(length):
    task = Adding(length, "pascanu")
    values, marks, target, lengths = adding_parts(task)
    p = two_marks(marks)
    assert set(lengths) == set(range(length, length + max(length // 10, 1)))
    tenth, two_fifths = (lengths * 0.1).astype(int), (lengths * 0.4).astype(int)
    assert np.all(p[:, 0] < tenth)
    assert np.all((tenth <= p[:, 1]) & (p[:, 1] < tenth + two_fifths))
    assert p[:, 0].min() == 0 and np.any(p[:, 1] == tenth + two_fifths - 1)
    assert np.any(p[:, 0] == tenth - 1) and np.any(p[:, 1] == tenth)
    np.testing.assert_allclose(target, np.take_along_axis(values, p, 1).mean(1), rtol=1e-6)


@pytest.mark.parametrize("length", [11, 100])
def test_adding_hs97(length):
    values, marks, target, lengths = adding_parts(Adding(length, "hs97"))
    rows = np.arange(len(marks))
    assert set(lengths) == set(range(length, length + length // 10 + 1))
    assert np.all(marks[:, 0] == -1) and np.all(marks[rows, lengths - 1] == -1)
    inner = marks.copy()
    inner[:, 0] = inner[rows, lengths - 1] = 0
    assert set(np.unique(inner)) == {0.0, 1.0}
    marked = inner.sum(1)  # 2, or 1 when the first pair was drawn, whose value is then 0
    np.testing.assert_array_equal(marked == 1, values[:, 0] == 0.0)
    assert np.all((marked == 1) | (marked == 2))
    first_pair = 1 / 10 + 9 / 10 / (length // 2 - 1)
    np.testing.assert_allclose((marked == 1).mean(), first_pair, atol=0.02)
    expected = 0.5 + np.where(inner == 1, values, 0.0).sum(1) / 4
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    both = marked == 2
    p = np.nonzero(inner[both])[1].reshape(-1, 2)
    last = max(length // 2 - 1, 9)
    assert p[:, 0].max() <= 9 and p[:, 1].max() == last and p.min() == 1
    assert values.min() < -0.99 and values.max() > 0.99


# Copy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "length"),
    [("urnn", 7), ("exprnn", 7), ("tcn", 7), ("janet", 7), ("urnn", 1), ("tcn", 1)],
)
def test_copy_conventions(variant, length):
    """The layout written out as the authors' code concatenates it."""
    task = CopyMemory(length, variant)
    xs, targets, mask, _ = draw(task)
    assert np.all(xs.sum(-1) == 1) and set(np.unique(xs)) == {0.0, 1.0}
    assert np.all(mask) and task.input_size == 10 and task.output_size == 9
    inputs = xs.argmax(-1)
    symbols = inputs[:, :10]
    assert set(np.unique(symbols)) == set(range(1, 9))
    blank, marker = (lambda n: [0] * n), (lambda n: [9] * n)
    tail = {
        "urnn": blank(length - 1) + marker(1) + blank(10),
        "exprnn": blank(length) + marker(1) + blank(9),
        "tcn": blank(length - 1) + marker(11),
        "janet": blank(length) + marker(1) + blank(10),
    }[variant]
    np.testing.assert_array_equal(inputs[:, 10:], np.broadcast_to(tail, (MANY, len(tail))))
    assert task.total_length == length + (21 if variant == "janet" else 20) == 10 + len(tail)
    np.testing.assert_array_equal(targets[:, -10:], symbols)
    np.testing.assert_array_equal(targets[:, :-10], 0)


@pytest.mark.parametrize(("variant", "lead"), [("urnn", 1), ("exprnn", 0), ("tcn", 1)])
def test_copy_marker_lead(variant, lead):
    xs, targets, _, _ = draw(CopyMemory(7, variant))
    first_output, first_marker = (targets > 0).argmax(1), xs[..., 9].argmax(1)
    np.testing.assert_array_equal(first_output - first_marker, lead)


def test_copy_symbols_are_uniform_and_independent():
    """All 64 pairs of neighbours are equally frequent: 9 * 10,000 pairs, about 1406 of each."""
    symbols = draw(CopyMemory(7))[1][:, -10:]
    pairs = np.stack([symbols[:, :-1].ravel(), symbols[:, 1:].ravel()])
    _, counts = np.unique(pairs, axis=1, return_counts=True)
    assert len(counts) == 64
    np.testing.assert_allclose(counts, 9 * MANY / 64, rtol=0.15)


def test_copy_of_other_sizes():
    task = CopyMemory(3, "exprnn", symbols=3, width=2)
    xs, targets, _, _ = draw(task)
    inputs = xs.argmax(-1)
    assert (task.input_size, task.output_size, task.total_length) == (5, 4, 7)
    np.testing.assert_array_equal(inputs[:, 2:], np.broadcast_to([0, 0, 0, 4, 0], (MANY, 5)))
    np.testing.assert_array_equal(targets[:, -2:], inputs[:, :2])
    assert set(np.unique(inputs[:, :2])) == {1, 2, 3}


# Temporal order ------------------------------------------------------------------------------


def order_windows(variant, informative, length):
    """(low, high) inclusive, as the paper or the code has them."""
    if variant == "pascanu":
        starts = {2: (0.1, 0.5), 3: (0.1, 0.3, 0.6)}[informative]
        return [(int(length * s), int(length * s) + int(length * 0.1) - 1) for s in starts]
    assert length == 100
    return {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}[informative]


@pytest.mark.parametrize(
    "task", [task for task in TASKS_DRAWN if isinstance(task, TemporalOrder)], ids=str
)
def test_temporal_order_conventions(task):
    length, variant, informative = task.length, task.variant, task.informative
    xs, targets, mask, lengths = draw(task)
    steps, rows = np.arange(task.total_length), np.arange(MANY)
    valid = steps < lengths[:, None]
    np.testing.assert_array_equal(xs.sum(-1), valid)
    np.testing.assert_array_equal(mask, steps == lengths[:, None] - 1)
    symbols = xs.argmax(-1)
    telling = (symbols < 2) & valid
    assert np.all(telling.sum(1) == informative)
    p = np.nonzero(telling)[1].reshape(-1, informative)
    for k, (low, high) in enumerate(order_windows(variant, informative, length)):
        assert set(p[:, k]) == set(range(low, high + 1))
    values = np.take_along_axis(symbols, p, 1)
    expected = (values * 2 ** np.arange(informative)).sum(1)
    np.testing.assert_array_equal(targets, np.broadcast_to(expected[:, None], targets.shape))
    assert set(expected) == set(range(task.output_size))
    others = ~telling & valid
    if variant == "hs97":
        assert set(lengths) == set(range(100, 111)) and task.input_size == 8
        assert np.all(symbols[:, 0] == 6) and np.all(symbols[rows, lengths - 1] == 7)
        others[:, 0] = others[rows, lengths - 1] = False
    else:
        assert task.total_length == length and task.input_size == 6
    found, counts = np.unique(symbols[others], return_counts=True)
    assert list(found) == [2, 3, 4, 5]
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.02)


def test_temporal_order_of_several_lengths():
    """Each sequence has the windows of its own length, and ends at its own last step."""
    task = TemporalOrder(31, shortest=20)
    xs, targets, mask, lengths = draw(task)
    assert set(lengths) == set(range(20, 32)) and task.total_length == 31
    valid = np.arange(31) < lengths[:, None]
    np.testing.assert_array_equal(xs.sum(-1), valid)
    np.testing.assert_array_equal(mask, np.arange(31) == lengths[:, None] - 1)
    symbols = xs.argmax(-1)
    p = np.nonzero((symbols < 2) & valid)[1].reshape(-1, 2)
    values = np.take_along_axis(symbols, p, 1)
    np.testing.assert_array_equal(targets[:, 0], values[:, 0] + 2 * values[:, 1])
    for length in (20, 29, 30, 31):
        for k, (low, high) in enumerate(order_windows("pascanu", 2, length)):
            assert set(p[lengths == length, k]) == set(range(low, high + 1))


@settings(max_examples=60)
@given(
    length=st.integers(10, 3000),
    variant=st.sampled_from(["pascanu", "hs97"]),
    informative=st.sampled_from([2, 3]),
)
def test_temporal_order_windows_never_meet(length, variant, informative):
    task = TemporalOrder(length, variant, informative)
    edges = [0, *(edge for window in task.windows for edge in window), length - 1]
    assert edges == sorted(edges) and all(low < high for low, high in task.windows)
    if variant == "pascanu":
        expected = [(a, b + 1) for a, b in order_windows(variant, informative, length)]
        assert list(task.windows) == expected


# Parity and words of groups ------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "shortest"), [("running", 9), ("deletang", 1), ("grazzi", 3)])
def test_parity(variant, shortest):
    xs, targets, mask, lengths = draw(Parity(9, variant))
    steps = np.arange(9)
    inside = steps < lengths[:, None]
    np.testing.assert_array_equal(xs.sum(-1), inside)
    bits = xs.argmax(-1)
    np.testing.assert_array_equal(targets, np.cumsum(bits, axis=1) % 2)
    counted = inside if variant == "running" else steps == lengths[:, None] - 1
    np.testing.assert_array_equal(mask, counted)
    assert set(lengths) == set(range(shortest, 10))
    np.testing.assert_allclose(bits[inside].mean(), 0.5, atol=0.01)


def test_parity_is_the_word_problem_of_two():
    words = GroupWords(9, group="Z2").sample(jax.random.key(3), 50)
    np.testing.assert_array_equal(words.targets, np.cumsum(words.xs.argmax(-1), axis=0) % 2)


@pytest.mark.parametrize("task", [GroupWords(7), GroupWords(5, "swaps", "S4")], ids=str)
def test_words_are_multiplied_as_permutations(task):
    xs, targets, mask, _ = draw(task)
    word, elements = xs[:200].argmax(-1), task.permutations
    assert np.all(mask) and np.all(xs.sum(-1) == 1)
    for letters, products in zip(word, targets[:200], strict=True):
        where = np.arange(elements.shape[1])
        for letter, product in zip(letters, products, strict=True):
            where = elements[letter][where]
            np.testing.assert_array_equal(elements[product], where)
    moved = np.sum(elements[word] != np.arange(elements.shape[1]), axis=-1)
    assert moved.max() == (2 if task.variant == "swaps" else 3)
    assert set(word.flat) == set(task.letters)


@pytest.mark.parametrize(
    ("group", "order"), [("S2", 2), ("S5", 120), ("A3", 3), ("A4", 12), ("A5", 60), ("Z60", 60)]
)
def test_groups(group, order):
    """Closed, with 0 as the one identity, associative, and commutative only if it should be."""
    task = GroupWords(3, group=group)
    table, everyone = task.products, np.arange(order)
    assert table.shape == (order, order) == (task.input_size, task.output_size)
    np.testing.assert_array_equal(np.sort(table, axis=1), np.broadcast_to(everyone, table.shape))
    np.testing.assert_array_equal([table[0], table[:, 0]], [everyone, everyone])
    f, g, h = np.random.default_rng(0).integers(0, order, (3, 500))
    np.testing.assert_array_equal(table[table[f, g], h], table[f, table[g, h]])
    assert np.array_equal(table, table.T) == (group in ("S2", "A3", "Z60"))


def test_baselines_of_words():
    assert Parity(7).baseline == pytest.approx(math.log(2), rel=1e-14)
    assert GroupWords(20, group="A5").baseline == pytest.approx(math.log(60), rel=1e-12)
    # Of S3, the identity or one of three swaps; two of them give any element.
    first, second = np.full(4, 1 / 4), np.array([4, 2, 2, 2, 3, 3]) / 16
    entropies = [-(p * np.log(p)).sum() for p in (first, second)]
    assert GroupWords(2, "swaps").baseline == pytest.approx(np.mean(entropies), rel=1e-12)


# Reber ---------------------------------------------------------------------------------------

_FROM_4 = "(XT*VP)*(S|XT*VV)"
PLAIN = f"B(TS*X{_FROM_4}|PT*V(V|P{_FROM_4}))E"
"""The grammar as a regular expression: a second writing of it."""
REBER = {"plain": PLAIN, "embedded": f"B(?P<s>[TP]){PLAIN}(?P=s)E"}


def reber_strings(task):
    """The symbols of each sequence and of the answer to its last step, as text."""
    xs, targets, mask, lengths = draw(task)
    np.testing.assert_array_equal(mask, np.arange(task.total_length) < lengths[:, None])
    np.testing.assert_array_equal(xs.sum(-1), mask)
    symbols, rows = xs.argmax(-1), np.arange(MANY)
    inner = mask[:, 1:]
    np.testing.assert_array_equal(symbols[:, 1:][inner], targets[:, :-1][inner])
    numbers = np.concatenate([symbols, np.zeros((MANY, 1), int)], axis=1)
    numbers[rows, lengths] = targets[rows, lengths - 1]
    letters = np.array(list("BTPSXVE"))[numbers]
    return ["".join(row[: n + 1]) for row, n in zip(letters, lengths, strict=True)]


@pytest.mark.parametrize(("variant", "length", "least"), [("plain", 12, 4), ("embedded", 40, 8)])
def test_reber_strings(variant, length, least):
    strings = reber_strings(Reber(length, variant))
    whole = [text for text in strings if len(text) <= length]
    assert min(map(len, strings)) == least + 1 and len(whole) > 0.9 * MANY
    assert all(re.fullmatch(REBER[variant], text) for text in whole)
    assert len(set(whole)) > 50


def test_reber_stream():
    """Whole strings one after another, and the beginning of one."""
    for text in reber_strings(Reber(25)):
        first = re.match(REBER["embedded"], text)
        while first:
            text = text[first.end() :]
            first = re.match(REBER["embedded"], text)
        assert len(text) <= 26 and re.fullmatch(r"(B([TP](B[TPSXV]*E?[TP]?)?)?)?", text)


@pytest.mark.parametrize("task", [Reber(25), Reber(40, "embedded"), Reber(12, "plain")], ids=str)
def test_reber_tells_what_is_legal(task):
    batch = jax.tree.map(np.asarray, drawn(task))
    legal = np.asarray(task.legal(batch.xs))
    assert np.all(np.take_along_axis(legal, batch.targets[..., None], -1)[..., 0] == batch.mask)
    np.testing.assert_array_equal(legal.any(-1), batch.mask)
    two = legal.sum(-1) == 2
    first = legal.argmax(-1) == batch.targets
    assert legal.sum(-1).max() == 2 and first[two].mean() == pytest.approx(0.5, abs=0.01)
    best = task.loss(np.where(legal, 0.0, -40.0).astype(np.float32), batch)
    np.testing.assert_allclose(best, task.optimum, rtol=0.01)
    ys = legal.astype(np.float32)
    np.testing.assert_array_equal(task.correct(ys, batch.xs), batch.mask)
    assert not np.any(task.correct(np.zeros_like(ys), batch.xs))
    one_short = np.where(np.cumsum(legal, -1) == 2, np.float32(-1), ys)
    np.testing.assert_array_equal(task.correct(one_short, batch.xs), batch.mask & ~two)


@pytest.mark.parametrize(
    ("xs", "ys", "match"),
    [
        (jnp.zeros((5, 2, 6)), None, r"xs: got shape \(5, 2, 6\), wanted \[T, \*batch, 7\]"),
        (jnp.zeros((5, 7), int), None, "xs: got dtype int32, wanted a floating"),
        (None, None, "xs: got a NoneType, wanted an array"),
        (
            jnp.zeros((5, 2, 7)),
            jnp.zeros((5, 1, 7)),
            r"ys: got shape \(5, 1, 7\), wanted the shape",
        ),
        (
            jnp.zeros((5, 5, 7)),
            jnp.zeros((5, 7)),
            r"ys: got shape \(5, 7\), wanted the shape of xs",
        ),
    ],
)
def test_reber_refuses_other_shapes(xs, ys, match):
    """Other symbols, and outputs of another shape that broadcasts, were answered."""
    task = Reber(5)
    calls = [task.legal, task.recall] if ys is None else [lambda xs: task.correct(ys, xs)]
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call(xs)


def test_reber_recall_is_where_the_second_symbol_comes_back():
    task = Reber(40, "embedded")
    batch = jax.tree.map(np.asarray, drawn(task))
    recall = np.asarray(task.recall(batch.xs))
    ended = batch.seq_lengths < 40
    np.testing.assert_array_equal(recall.sum(0)[ended], 1)
    step = recall.argmax(0)
    np.testing.assert_array_equal(step[ended], batch.seq_lengths[ended] - 2)
    second = batch.xs[1].argmax(-1)
    np.testing.assert_array_equal(batch.targets[step, np.arange(MANY)][ended], second[ended])
    assert not np.any(Reber(12, "plain").recall(drawn(Reber(12, "plain")).xs))


def test_reber_optimum_of_one_step():
    """After B both T and P may come; after its second symbol an embedded string goes on with B."""
    assert Reber(1).optimum == Reber(1).baseline == pytest.approx(math.log(2))
    assert Reber(2).optimum == pytest.approx(math.log(2) / 2)


# Noise-padded --------------------------------------------------------------------------------


def test_noise_padded():
    task = NoisePadded(5, informative=4, strength=2.0)
    xs, targets, mask, _ = draw(task)
    np.testing.assert_array_equal(mask, np.arange(9) == np.full((MANY, 1), 8))
    np.testing.assert_array_equal(targets, np.broadcast_to(targets[:, :1], targets.shape))
    assert set(targets[:, 0]) == set(range(10))
    own = np.take_along_axis(xs, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(own.mean(0), [2, 2, 2, 2, 0, 0, 0, 0, 0], atol=0.06)
    np.testing.assert_allclose(xs.std(0)[4:], 1.0, atol=0.05)
    np.testing.assert_allclose(own.std(0), 1.0, atol=0.05)


def test_noise_padded_best_answer():
    """As the docstring says: right in 98.3 % of the sequences."""
    task = NoisePadded(1)
    xs, targets, _, _ = draw(task)
    right = xs[:, :16].sum(1).argmax(-1) == targets[:, 0]
    assert right.mean() == pytest.approx(0.983, abs=0.005)
    assert task.baseline == pytest.approx(math.log(10))


# Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Adding, CopyMemory, GroupWords, Parity, Reber, TemporalOrder])
def test_unknown_variant(task):
    known = "urnn|pascanu|plain|running|swaps"
    with pytest.raises(ValueError, match=f"variant: got 'nope', wanted one of .*({known})"):
        task(100, variant="nope")


@pytest.mark.parametrize(
    ("make", "minimum"),
    [
        (Adding, 2),
        (lambda n: Adding(n, "hs97"), 11),
        (lambda n: Adding(n, "pascanu"), 10),
        (lambda n: Adding(n, "scornn"), 3),
        (lambda n: Adding(n, "tcn"), 2),
        (TemporalOrder, 10),
        (lambda n: TemporalOrder(n, "hs97", 3), 10),
        (lambda n: Parity(n, "deletang"), 1),
        (lambda n: Parity(n, "grazzi"), 3),
    ],
)
def test_shortest_length(make, minimum):
    jax.eval_shape(lambda key: make(minimum).sample(key, 2), jax.random.key(0))
    wanted = f"wanted (an integer of )?at least {minimum}.*pass length>?={minimum}"
    message = f"length: got {minimum - 1}, {wanted}"
    with pytest.raises(ValueError, match=message):
        make(minimum - 1)


@pytest.mark.parametrize("length", [0, -3, 2.5, "10", True])
@pytest.mark.parametrize(
    "task", [Adding, CopyMemory, GroupWords, NoisePadded, Parity, Reber, TemporalOrder]
)
def test_lengths_that_are_no_lengths(task, length):
    with pytest.raises(ValueError, match="length: got "):
        task(length)


def test_other_errors():
    with pytest.raises(ValueError, match="informative: got 4, wanted one of 2, 3"):
        TemporalOrder(50, informative=4)
    for shortest, wanted in ((9, "at least 10 "), (51, "at most the length, 50"), (2.5, "")):
        with pytest.raises(ValueError, match=f"shortest: got {shortest}, wanted {wanted}"):
            TemporalOrder(50, shortest=shortest)
    with pytest.raises(ValueError, match="shortest: got 20 with 'hs97', wanted None"):
        TemporalOrder(50, "hs97", shortest=20)
    for group in ("S6", "A2", "Z1", "Z121", "D4", "S", 3, None):
        with pytest.raises(ValueError, match=f"group: got .?{group}.*S2 to S5"):
            GroupWords(5, group=group)
    with pytest.raises(ValueError, match="variant: got 'swaps' of A4, wanted a group with swaps"):
        GroupWords(5, "swaps", "A4")
    with pytest.raises(ValueError, match="symbols: got 1, wanted at least 2"):
        CopyMemory(5, symbols=1)
    with pytest.raises(ValueError, match="width: got 0"):
        CopyMemory(5, width=0)
    for name, value in (("informative", 0), ("classes", 1), ("strength", 0.0), ("strength", "2")):
        with pytest.raises(ValueError, match=f"{name}: got "):
            NoisePadded(5, **{name: value})
    with pytest.raises(ValueError, match="batch_size: got 0"):
        Adding(5).sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match=r"targets: got shape \(13, 10000, 1\), wanted"):
        URNN.loss(jnp.zeros((13, MANY, 2)), drawn(URNN))
