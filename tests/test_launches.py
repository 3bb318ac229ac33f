"""`python -m bench launches`: counting in recorded programs, and compilers that may be missing."""

import jax
import jax.numpy as jnp
import pytest

from bench import __main__, launches, record
from bench.aot import devices, loops, schedule
from bench.cases import Case

PROGRAM = """HloModule jit_run

%called (p.1: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  ROOT %wrapped_copy.2 = f32[4]{0} copy(%p.1)
}

%body.clone (arg: (s32[], f32[4], f32[8,4])) -> (s32[], f32[4], f32[8,4]) {
  %arg = (s32[], f32[4]{0}, f32[8,4]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%arg), index=0
  %h = f32[4]{0} get-tuple-element(%arg), index=1
  %gemm_fusion_dot.5 = f32[4]{0} fusion(%h), kind=kCustom, calls=%fused, metadata={op="copy(x"}
  %gemm_fusion_dot.6 = f32[4]{0} fusion(%gemm_fusion_dot.5), kind=kCustom, calls=%fused
  %bitcast.7 = f32[1,4]{1,0} bitcast(%gemm_fusion_dot.6)
  %stack-start = ((f32[8,4]), f32[8,4]) fusion-start(%h, %bitcast.7), kind=kLoop, calls=%fused.1
  %stack-done = f32[8,4]{1,0} fusion-done(%stack-start)
  %call.1 = f32[4]{0} call(%h), to_apply=%called
  %loop_add_fusion = s32[] fusion(%counter), kind=kLoop, calls=%fused.2
  ROOT %tuple.9 = (s32[], f32[4]{0}, f32[8,4]{1,0}) tuple(%loop_add_fusion, %call.1, %stack-done)
}

%condition (arg.1: (s32[], f32[4], f32[8,4])) -> pred[] {
  %steps = s32[]{:T(128)} constant(4)
  %arg.1 = (s32[], f32[4]{0}, f32[8,4]{1,0}) parameter(0)
  %counter.1 = s32[] get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[] compare(%counter.1, %steps), direction=LT
}

ENTRY %main (x: f32[4]) -> f32[8,4] {
  %x = f32[4]{0} parameter(0)
  %while.3 = (s32[], f32[4]{0}, f32[8,4]{1,0}) while(%tuple), condition=%condition, body=%body.clone
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.3), index=2
}
"""


def test_a_launch_is_what_the_device_is_asked_for():
    (loop,) = loops.loops(PROGRAM)
    assert (loop.name, loop.trips) == ("while.3", 4)
    counts = {"gemm_fusion_dot": 2, "stack-start": 1, "wrapped_copy": 1, "loop_add_fusion": 1}
    assert loop.launches == counts


def test_what_the_compiler_notes_of_a_loop_comes_first():
    noted = PROGRAM.replace(
        "body=%body.clone", 'body=%body.clone, backend_config={"known_trip_count":{"n":"2"}}'
    )
    assert loops.loops(noted)[0].trips == 2
    assert loops.loops(PROGRAM.replace("direction=LT", "direction=NE"))[0].trips is None


def test_cycles_are_the_bundles_of_the_body_and_of_the_loop(tmp_path):
    around = """Schedule analysis:
    total scheduled bundles:    279
      20.00 scheduled bundles ( 7.41%): %while.3 = (s32[]) while(%tuple)
       3.50 scheduled bundles ( 1.30%): %gemm_fusion_dot.5 = f32[4] fusion(%h)
      99.00 scheduled bundles (35.48%): %gemm_fusion_dot.51 = f32[4] fusion(%h)
"""
    part = "Schedule analysis:\n\ttotal scheduled bundles:    {}\n"
    files = {"TLP": around, "gemm_fusion_dot.5": part.format(247), "fusion.9": part.format(5000)}
    for number, (name, text) in enumerate(files.items()):
        (tmp_path / f"17{number}-{name}-65-schedule-analysis_final_bundles.txt").write_text(text)
    (tmp_path / "170-TLP-72-final_bundles.txt").write_text("more")
    schedules = schedule.taken(tmp_path)
    assert schedules == files and not list(tmp_path.iterdir())
    (loop,) = loops.loops(PROGRAM)
    assert schedule.cycles(loop, schedules) == 20 + 3.5 + 247
    assert schedule.cycles(loop, {}) is None


def test_a_row_is_per_step():
    counted = [
        {"steps": 4.0, "launches": {"a": 9, "b": 1}, "cycles": None},
        {"steps": 1.0, "launches": {"a": 3}, "cycles": None},
    ]
    found = {"cell": "gru", "dtype": "float32", "mode": "train", "contender": "lstm_jax fused"}
    cells = launches._cells(found | {"loops": counted, "temp_size_in_bytes": 2_500_000})
    assert cells[4:] == ["2.5 + 3 = 5.5", "-", "2.5"]
    assert launches._cells(found | {"note": "cannot: so"})[4:] == ["cannot: so", "", ""]


@pytest.mark.parametrize("target", devices.TARGETS)
def test_a_missing_wheel_names_the_extra(target, monkeypatch, capsys):
    monkeypatch.setattr(devices.util, "find_spec", lambda name: None)
    devices.device.cache_clear()
    with pytest.raises(SystemExit):
        __main__.main(["launches", "--target", target])
    assert r"pip install 'lstm-jax[aot]'" in capsys.readouterr().err


def test_the_description_of_a_gpu_says_where_it_is_from():
    for target in devices.GPUS:
        text = (record.ROOT / "bench" / "aot" / f"{target}.txtpb").read_text()
        assert text.startswith("# NVIDIA") and "data sheet" in text and "core_count" in text


@pytest.mark.parametrize(
    "wrong", [["--shape", "1,2"], ["--cells", "lstn"], ["--modes", "jvp"], ["--rivals", "torch"]]
)
def test_wrong_options_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        __main__.main(["launches", "--target", "h100", *wrong])
    assert wrong[0] in capsys.readouterr().err


@pytest.fixture(params=["h100", "v5e"])
def target(request):
    why = devices.why_not(request.param)
    if why:
        pytest.skip(why)
    return request.param


def test_compiles_for_what_is_not_there_and_leaves_the_cpu_alone(target):
    program = devices.compiled(jnp.tanh, [jax.ShapeDtypeStruct((8, 128), jnp.float32)], target)
    assert "tanh" in program.as_text()
    assert jax.default_backend() == "cpu"
    assert jnp.tanh(jnp.zeros(2)).devices() == {jax.devices("cpu")[0]}


@pytest.mark.grid
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["h100"], indirect=True)  # A TPU's cost is cycles.
def test_fused_launches_little(cell, dtype, target):
    """Two kernels a step forward and at most three backward, beside what an iteration costs."""
    found = {}
    with __main__.lenient("float32"):
        for name in ("lstm_jax fused", "lstm_jax scan"):
            row = launches.row(Case(cell, 64, 32, 256, 256, dtype=dtype), name, "train", target)
            found[name] = [sum(each["launches"].values()) / each["steps"] for each in row["loops"]]
    assert len(found["lstm_jax fused"]) == 2
    assert sum(found["lstm_jax fused"]) < 0.75 * sum(found["lstm_jax scan"])
    forward, backward = found["lstm_jax fused"]
    assert forward <= 2.5 and backward <= 3.4
