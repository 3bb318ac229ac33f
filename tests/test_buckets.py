"""Buckets: each sequence once an epoch as it was, least padding, the same batches again."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import train
from lstm_jax.data import Buckets, Padded
from lstm_jax.data._lengths import best_lengths

STEPS = [3, 9, 1, 4, 4, 12, 7, 3, 2, 11, 5]


def some(steps=STEPS):
    """Sequences (inputs, targets) with the number of each in all its steps."""
    return [
        (np.full((n, 2), k, "float32"), np.full(n, k, "int32"))
        for k, n in enumerate(steps, start=1)
    ]


def epoch(batches, n=0):
    return [batches[n * batches.per_epoch + k] for k in range(batches.per_epoch)]


def order(found):
    """The sequence of each row, in order; 0 for a row that is filled up."""
    return np.concatenate([batch.sequences[1][0] for batch in found]).tolist()


# ---- batches -------------------------------------------------------------------------------------
def test_an_epoch_has_each_sequence_once_and_whole():
    batches = Buckets(some(), 2, buckets=[4, 8, 12], labels={"id": np.arange(1, 12)})
    assert batches.lengths == (4, 8, 12) and batches.per_epoch == 6
    found = epoch(batches)
    assert sorted(order(found)) == [0, *range(1, 12)]
    for batch in found:
        xs, targets = batch.sequences
        assert isinstance(batch, Padded) and xs.shape == (*batch.mask.shape, 2)
        assert batch.mask.shape[0] in batches.lengths and batch.mask.shape[1] == 2
        assert (xs.dtype, targets.dtype, batch.seq_lengths.dtype) == ("float32", "int32", "int32")
        np.testing.assert_array_equal(batch.mask.sum(0), batch.seq_lengths)
        np.testing.assert_array_equal(targets, batch.mask * batch.labels["id"])
        np.testing.assert_array_equal(xs[..., 1], targets)
        for length, label in zip(batch.seq_lengths, batch.labels["id"], strict=True):
            assert length == ([0, *STEPS])[label]
            shorter = [T for T in batches.lengths if T < len(batch.mask)]
            assert not length or all(length > T for T in shorter)


def test_the_order_is_that_of_the_seed_and_differs_between_epochs():
    ours, same, other = (Buckets(some(), 2, seed=seed) for seed in (3, 3, 4))
    assert order(epoch(ours)) == order(epoch(same)) != order(epoch(other))
    assert order(epoch(ours, 1)) == order(epoch(same, 1)) != order(epoch(ours))
    assert sorted(order(epoch(ours, 1))) == sorted(order(epoch(ours)))
    sorted_by_length = np.argsort(STEPS, kind="stable") + 1
    given = Buckets(some(), 11, buckets=1, seed=None)
    assert order(epoch(given)) == order(epoch(given, 1)) == list(range(1, 12))
    each = Buckets(some(), 1, buckets=9, seed=None)
    assert order(epoch(each)) == sorted_by_length.tolist()


def test_an_iterator_goes_on_from_its_place():
    batches = Buckets(some(), 2)
    one, two = iter(batches), iter(Buckets(some(), 2))
    taken = list(itertools.islice(one, 8))
    assert order(taken) == order([batches[n] for n in range(8)])
    two.set_state(json.loads(json.dumps(one.get_state())))
    assert order([next(two)]) == order([next(one)]) == order([batches[8]])
    for changed in (Buckets(some(), 3), Buckets(some(), 2, seed=1), Buckets(some([1, 2]), 2)):
        with pytest.raises(ValueError, match="state: got the place in batches of .*, wanted that"):
            iter(changed).set_state(one.get_state())


def test_nothing_is_dropped_unless_asked_and_then_in_turn():
    batches = Buckets(some(), 3, buckets=2, drop_remainder=True)
    found = [order(epoch(batches, n)) for n in range(30)]
    assert all(0 not in rows and len(set(rows)) == len(rows) for rows in found)
    assert set(itertools.chain(*found)) == set(range(1, 12))
    with pytest.raises(ValueError, match="batch_size: got 12 for buckets that have fewer"):
        Buckets(some(), 12, drop_remainder=True)


def test_lists_are_arrays():
    (batch,) = epoch(Buckets([[1, 2, 3], [4]], 2, buckets=1, seed=None))
    np.testing.assert_array_equal(batch.sequences, [[1, 4], [2, 0], [3, 0]])
    assert batch.labels is None


# ---- padding -------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_the_lengths_pad_least(count, rng):
    """Against all choices."""
    for _ in range(5):
        steps = rng.integers(1, 9, size=rng.integers(1, 12))
        found = best_lengths(steps, count)

        def cost(lengths, steps=steps):
            return sum(min(T for T in lengths if T >= n) - n for n in steps)

        choices = itertools.combinations(np.unique(steps), len(found) - 1)
        least = min(cost([*choice, steps.max()]) for choice in choices)
        assert cost(found) == least and len(found) == min(count, len(np.unique(steps)))


def test_of_very_many_lengths_some_are_candidates():
    steps = np.arange(1, 5001)
    found = best_lengths(steps, 4)
    assert found[-1] == 5000 and np.all(np.abs(found - [1250, 2500, 3750, 5000]) < 20)


@pytest.mark.parametrize("drop", [False, True])
def test_the_report_counts_padding(drop):
    batches = Buckets(some(), 2, buckets=[4, 12], drop_remainder=drop)
    found = [batch.mask for n in range(400 if drop else 1) for batch in epoch(batches, n)]
    padding = 1 - sum(mask.sum() for mask in found) / sum(mask.size for mask in found)
    report = batches.report()
    assert report["padding"] == pytest.approx(padding, abs=0.01 if drop else 1e-12)
    assert report["unbucketed"] == pytest.approx(1 - sum(STEPS) / (12 * len(STEPS)))
    assert [row["sequences"] for row in report["buckets"]] == [6, 5]
    assert [row["length"] for row in report["buckets"]] == [4, 12]
    assert [row["batches"] for row in report["buckets"]] == [3, 2 if drop else 3]


# ---- training ------------------------------------------------------------------------------------
def test_a_killed_run_goes_on_and_compiles_once_a_bucket(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    tx = lj.clipped_sgd(0.1)

    def loss(params, batch):
        xs, targets = batch.sequences
        ys = jnp.sum(xs * params["w"][None, None], axis=-1)
        return lj.losses.mean_squared_error(ys, targets, batch.mask)

    def fit(name, kill=None):
        def end(state, record):
            if record["step"] == kill:
                raise InterruptedError

        feed = train.Feed(train.make_step(loss, tx), Buckets(some(), 2, buckets=[4, 12]))
        with train.Checkpoints(tmp_path / name, every=4, keep=1) as given:
            state = train.create({"w": jnp.ones(2)}, tx)
            more = {"callbacks": [end], "checkpoints": given, "chunk": 2}
            state, history = train.fit(feed, state, jax.random.key(0), 14, **more)
        return feed, jax.device_get((state.params, history["loss"]))

    with pytest.raises(InterruptedError):
        fit("cut", kill=10)
    _, cut = fit("cut")
    feed, whole = fit("whole")
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    assert feed._step._cache_size() == 2


@pytest.mark.grid
def test_rows_that_are_filled_up_change_nothing(key):
    """Neither values nor gradients: those of the sequences one by one."""
    net = lj.readout(lj.GRU(3), 2)
    params = net.init(key, 2)
    sequences = [np.asarray(jax.random.normal(key, (n, 2))) for n in STEPS[:3]]
    (batch,) = epoch(Buckets(sequences, 5, buckets=1, labels=[0, 1, 1], seed=None))

    def loss(params, xs, seq_lengths, labels):
        _, ys = lj.unroll(net, params, xs, seq_lengths=seq_lengths)
        last = ys[jnp.maximum(seq_lengths - 1, 0), jnp.arange(len(seq_lengths))]
        return lj.losses.softmax_cross_entropy(last, labels, seq_lengths > 0)

    value = jax.value_and_grad(loss)
    ours = value(params, batch.sequences, batch.seq_lengths, batch.labels)
    each = [
        value(params, xs[:, None], np.asarray([len(xs)]), np.asarray([label]))
        for xs, label in zip(sequences, [0, 1, 1], strict=True)
    ]
    mean = jax.tree.map(lambda *parts: sum(parts) / 3, *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), ours, mean)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"sequences": []}, r"sequences: got \[\], wanted a list"),
        ({"sequences": np.ones((3, 2))}, "sequences: got an array"),
        ({"sequences": [np.ones(2), 3]}, r"sequences\[1\]: got leaves of shapes \[\(\)\]"),
        ({"sequences": [np.ones((0, 2))]}, r"sequences\[0\]: got leaves of shapes"),
        ({"sequences": [(np.ones(2), np.ones(3))]}, r"sequences\[0\]: got leaves of shapes"),
        (
            {"sequences": [(np.ones(2), 3)]},
            r"sequences\[0\]: got leaves of shapes \[\(2,\), \(\)\]",
        ),
        ({"sequences": [(np.ones(2), [])]}, r"sequences\[0\]: got leaves of shapes"),
        ({"sequences": ["text"]}, r"sequences\[0\]: got a str, wanted an array of numbers"),
        ({"sequences": [np.ones((2, 3)), np.ones((2, 4))]}, r"sequences\[1\]: got leaves .*\(4,\)"),
        ({"sequences": [np.ones(2), np.ones(2, int)]}, r"sequences\[1\]: got leaves .*int64"),
        ({"sequences": [{"x": np.ones(2)}, {"y": np.ones(2)}]}, r"\[1\]: got leaves .*'y'.*'x'"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"buckets": 0}, "buckets: got 0"),
        ({"buckets": "4"}, "buckets: got '4'"),
        ({"buckets": [4, 8.5]}, "buckets: got 8.5"),
        ({"buckets": [4, 8]}, r"buckets: got \[4, 8\] for a sequence of 12 steps, wanted one at"),
        ({"buckets": []}, r"buckets: got \[\] for"),
        ({"labels": np.ones(3)}, r"labels: got a leaf of shape \(3,\), wanted 11 rows"),
        ({"seed": -1}, "seed: got -1"),
        ({"drop_remainder": 1}, "drop_remainder: got 1"),
    ],
)
def test_wrong_arguments(given, match):
    with pytest.raises(ValueError, match=match):
        Buckets(**{"sequences": some(), "batch_size": 2, **given})


def test_a_wrong_number_of_a_batch():
    for n in (-1, 1.0):
        with pytest.raises(ValueError, match="n: got"):
            Buckets(some(), 2)[n]


@pytest.mark.parametrize("state", [{"n": 3}, None], ids=str)
def test_a_place_in_something_else_is_refused(state):
    with pytest.raises(ValueError, match="state: got .*, wanted what get_state of `Buckets` gave"):
        iter(Buckets(some(), 2)).set_state(state)
