"""`train.watch`, and TensorBoard's events."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax as lj
from lstm_jax import diagnostics, train

NET = lj.readout(lj.LSTM(4), 1)
XS = jnp.asarray(np.sin(np.arange(30, dtype=np.float32)).reshape(5, 2, 3))
KEY = jax.random.key(0)


def loss(params, xs):
    return jnp.mean(jnp.square(lj.unroll(NET, params, xs)[1] - 1))


def sample(key):
    return XS + 0.1 * jax.random.normal(key, XS.shape)


def probe(params):
    norms = diagnostics.gradient_norms_by_lag(NET, params, XS, lambda ys: jnp.sum(ys[-1]))
    return {"norms": diagnostics.mean_log_norms(norms), "w": params["w"][0, 0]}


LOOP = train.make_loop(loss, lj.clipped_sgd(0.1), sample, 12)
RUN = train.watch(LOOP, probe, every=4)


def says_nothing(state, key, steps):
    return LOOP(state, key, steps)


def start():
    return train.create(NET.init(KEY, 3), lj.clipped_sgd(0.1))


def test_watching_changes_no_update_and_sees_the_parameters_after_them():
    plain, history = LOOP(start(), KEY)
    state, seen = RUN(start(), KEY, 12)
    for a, b in zip(
        jax.tree.leaves((plain, history["loss"])),
        jax.tree.leaves((state, seen["loss"])),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    middle, _ = LOOP(start(), KEY, 8)
    want = probe(middle.params)
    assert seen["watched"]["norms"].h.shape == (3, 5)
    np.testing.assert_allclose(seen["watched"]["norms"].h[1], want["norms"].h, rtol=1e-4)
    np.testing.assert_array_equal(seen["watched"]["w"][2], state.params["w"][0, 0])


def test_two_watches_and_a_log(tmp_path):
    twice = train.watch(RUN, lambda params: jnp.sum(params["b"]), 8, name="bias", steps=8)
    state, history = twice(start(), KEY)
    assert history["bias"].shape == (1,) and history["watched"]["w"].shape == (2,)
    with train.JsonLines(tmp_path / "log.jsonl") as log:
        train.fit(RUN, start(), KEY, 8, chunk=4, metrics=log.write)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert len(lines[1]["watched"]["norms"]["h"]) == 5
    np.testing.assert_allclose(lines[1]["watched"]["w"], history["watched"]["w"][1], rtol=1e-6)


def test_tensorboard_reads_back_what_was_written(tmp_path):
    with train.TensorBoard(tmp_path / "run") as board:
        train.fit(RUN, start(), KEY, 8, chunk=4, metrics=board.write)
        board.write({"step": 9, "note": "a word", "missing": None, "odd": [np.nan, 1.0, np.inf]})
    events = list(events_of(tmp_path / "run"))
    scalars = {(tag, step) for tag, step, kind in events if kind == "simple_value"}
    histograms = {(tag, step) for tag, step, kind in events if kind == "histo"}
    assert {("loss", 4), ("loss", 8), ("watched/w", 8), ("clip_rate", 8)} <= scalars
    assert {("watched/norms/h", 4), ("odd", 9)} <= histograms
    assert not any(tag in ("note", "missing", "step") for tag, _, _ in events)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "bool"])
def test_numbers_of_every_dtype_are_written(dtype, tmp_path):
    """A network in bfloat16 has metrics in bfloat16."""
    one = jnp.ones((), dtype)
    record = {"step": np.int64(3), "one": one, "two": jnp.stack([one, one]), "of": [{"a": one}, 2]}
    with train.TensorBoard(tmp_path / "run") as board, train.JsonLines(tmp_path / "log") as log:
        board.write(record | {"huge": 2**70})
        log.write(record)
    events = set(events_of(tmp_path / "run"))
    numbers = {("one", 3), ("huge", 3), ("of/0/a", 3), ("of/1", 3)}
    wanted = {(*each, "simple_value") for each in numbers} | {("two", 3, "histo")}
    assert events == wanted
    assert json.loads((tmp_path / "log").read_text()) == {
        "step": 3, "one": 1, "two": [1, 1], "of": [{"a": 1}, 2]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"z": np.ones(2, np.complex64)}, "z'?.?: got an array of dtype complex64 and shape"),
        ({"a": {"k": KEY}}, r"k'?.?: got an array of dtype key<fry>"),
        ({"o": {1}}, r"record\['o'\]: got .1., wanted a number"),
        ({"a": {1: 2.0, "1": 3.0}}, "got names that are one as text, among .*; rename one"),
        ([1], r"record: got \[1\], wanted a dict from names to values"),
    ],
)
def test_what_cannot_be_written_is_named(record, message, tmp_path):
    """It was left out of a board without a word."""
    for writer in (train.JsonLines(tmp_path / "log"), train.TensorBoard(tmp_path / "run")):
        with writer, pytest.raises(ValueError, match=message):
            writer.write({"step": 1} | record if isinstance(record, dict) else record)
    assert not (tmp_path / "log").read_text()


def test_records_within_a_compiled_function(tmp_path):
    """What is traced has no value yet; a callback has it, under vmap too."""
    for name, writer in (
        ("log", train.JsonLines(tmp_path / "log")),
        ("run", train.TensorBoard(tmp_path / "run")),
    ):
        with writer:
            with pytest.raises(ValueError, match="got a traced value, float32.*debug.callback"):
                jax.jit(lambda x, w=writer: w.write({"step": 1, "x": x}))(1.0)

            def told(x, w=writer):
                jax.debug.callback(lambda x: w.write({"step": 1, "x": x}), x)
                return x

            jax.block_until_ready(jax.jit(jax.vmap(told))(jnp.arange(3.0)))
            jax.effects_barrier()
        assert (tmp_path / name).exists()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(json.loads(line)["x"] for line in lines) == [0, 1, 2]
    assert len(list(events_of(tmp_path / "run"))) == 3


@pytest.mark.parametrize("step", [1.5, "a", None, np.zeros(0, int), np.nan, [1, 2.5]])
def test_a_step_is_an_integer(step, tmp_path):
    with train.TensorBoard(tmp_path) as board, train.CsvLines(tmp_path / "x.csv") as lines:
        for writer in (board, lines):
            with pytest.raises(ValueError, match=r"record\['step'\]: got"):
                writer.write({"step": step, "loss": 1.0})


def events_of(folder):
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data = path.read_bytes()
    while data:  # A record is its length, a checksum, the event, a checksum.
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            yield value.tag, event.step, value.WhichOneof("value")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train.watch(LOOP, probe, 0), "every: got 0"),
        (lambda: train.watch(LOOP, 3, 5), "probe: got 3"),
        (lambda: train.watch(probe, LOOP, 5), "run: got a function that does not take 3 arguments"),
        (lambda: train.watch(LOOP, lambda p: "word", 4)(start(), KEY, 4), "probe: got a str"),
        (
            lambda: train.make_step(lambda p: p["b"], lj.clipped_sgd(0.1))(start()),
            "wanted a scalar",
        ),
        (lambda: train.make_step(lambda p: 3, lj.clipped_sgd(0.1))(start()), "gives dtype int"),
        (lambda: RUN(start(), KEY, 10), r"steps: got 10, wanted a multiple of every = 4; pass 8"),
        (lambda: train.watch(says_nothing, probe, 4)(start(), KEY), "steps: got None"),
        (lambda: train.watch(LOOP, probe, 4, name="loss")(start(), KEY, 4), "name: got 'loss'"),
        (lambda: train.watch(LOOP, probe, 4, name=3), "name: got 3, wanted a string"),
        (lambda: train.TensorBoard("x").write({"step": 1}), "record: got a closed folder"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_call_that_does_not_say_makes_the_updates_of_the_loop():
    loop = train.make_loop(loss, lj.clipped_sgd(0.1), sample, 8)
    for watched in (train.watch(loop, probe, 4), train.watch(says_nothing, probe, 4, steps=8)):
        state, history = watched(start(), KEY)
        assert int(state.step) == len(history["loss"]) == 8
    twice = train.watch(train.watch(loop, probe, 4), probe, 8, name="rarer")
    assert twice(start(), KEY)[1]["rarer"]["w"].shape == (1,)


@pytest.mark.parametrize("name", ["TensorBoard", "CsvLines"])
def test_the_step_of_many_seeds_is_the_largest(name, tmp_path):
    """A loop under vmap has one for each, which `fit` hands on as a list."""
    writer = getattr(train, name)(tmp_path / name)
    with writer:
        for steps in ([3, 4], [8, 8]):
            writer.write({"step": steps, "loss": [1.0, 2.0]})
    if name == "CsvLines":
        assert (tmp_path / name).read_text().splitlines()[1].startswith('"[3, 4]"')
    else:
        assert {step for _, step, _ in events_of(tmp_path / name)} >= {4, 8}


def test_a_record_needs_its_step(tmp_path):
    with train.TensorBoard(tmp_path) as board, pytest.raises(ValueError, match='an entry "step"'):
        board.write({"loss": 1.0})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="folder: got"), train.TensorBoard(tmp_path / "file"):
        pass
