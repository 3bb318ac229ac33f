"""`python -m bench launches`: counting in recorded programs, and compilers that may be missing."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from bench import __main__, launches, record
from bench.aot import devices, kernels, loops, schedule
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


OPERAND = (
    "%s1 = inlined_call_operand.{} [shape: {}, index: 0, kind: input, shape index: {{}}, may-alias:"
    " {{1,2}}] /* input window allocation for operator input 0. The window shape is {}, while the"
    " full shape is {}. The u8 shape shown above is raw. */"
)
OPERANDS = [
    OPERAND.format(memory, full, window, full)
    for memory, window, full in [
        ("vmem", "bf16[32,8,512]", "bf16[64,8,512]"),
        ("hbm", "f32[32,8,128]", "f32[64,8,128]"),
        ("hbm", "f32[8,128]", "f32[8,128]"),
    ]
]
KERNEL = (
    f"""= control target key start
LB: loop body
     0   :  {{ {OPERANDS[0]}  ;;  {OPERANDS[1]} }}
   0x1   :  {{ {OPERANDS[2]} }}
   0x2   :  {{}}"""
    + """
   0x3 LB: > { %p1 = scmp.ge.s32.totalorder %s1, 1 }
   0x4   : > { %9 = sbr.rel (%p2) target = $region36  ;;  %s5 = sshll.u32 (!%p2), %s9, 5 }
   0x5   :  { } /* End region 34 */
   0x6 LB: >> { %v1 = vld [vmem:[%s1] sm:$0xff] }
   0x7   : >> { %2 = vmatpush.bf16.msra.mxu0 %v1  ;;  %3 = vmatpush.bf16.msra.mxu1 %v1 }
   0x8   : >> { %v2 = vadd.f32 %v1, %v1  ;;  %5 = sbr.rel (!%p3) target = $region44 }
   0x9   :  {}
   0xa   : > { %v4 = vmul.f32 (%p3), %v2, %v2 } /* End region 44 :: End region 45 */
   0xb LB: >> { %v5 = vld [vmem:[%s1] sm:$0xff]  ;;  %6 = sbr.rel (!%p4) target = $region50 }
   0xc   : >> { %6 = vst [vmem:[%s2] sm:$0xff] %v5 } /* End region 50 */
   0xd   : > { %7 = dma.vmem_to_hbm [thread:$0]  (%p5), /*hbm=*/%s2, /*
base_bounds: (1, 1)
iteration_bounds: (1, 2) */ }
   0xe   :  { %8 = sbr.rel (!%p6) target = $region155 }
   0xf   :  {} /* End region 4 */
"""
)


def test_a_step_of_a_kernel_is_its_share_of_the_loops_and_of_the_block():
    """The loop that only copies is in neither; a bundle that is marked as outer is in its loop."""
    alone = kernels.step(kernels.Kernel("kernel", 1, 32, (8,)), KERNEL)
    assert alone == ((8 * 5 + 9) / 32, 32 * 8 * 128 * 4 / 32, 8 * 2 / 32)
    assert alone is not None
    twice = kernels.step(kernels.Kernel("kernel", 2, 32, (8,)), KERNEL)
    assert twice == tuple(2 * each for each in alone)
    two_loops = kernels.step(kernels.Kernel("kernel", 1, 37, (8, 5)), KERNEL)
    assert two_loops.cycles == pytest.approx((8 * 5 + 5 * 2 + 9) / 37)
    assert kernels.step(kernels.Kernel("kernel", 1, 32, (8, 8, 8)), KERNEL) is None


def test_a_kernel_without_a_loop_is_one_block():
    """As Pallas makes it of a single round."""
    text = KERNEL.replace(" LB:", "   :").replace("sbr.rel", "srel")
    assert kernels.step(kernels.Kernel("kernel", 1, 4, ()), text).cycles == 16 / 4


def test_kernels_tell_their_steps():
    line = '  %run.1 = (f32[8]{0}) custom-call(%a), custom_call_target="tpu_custom_call", '
    told = 'frontend_attributes={kernel_metadata={"blocks":"1","steps":"37","trips":"8,5"}}'
    other = "%x = f32[8]{0} get-tuple-element(%run.1), index=0, "
    none = line.replace("run.1", "run.2") + "frontend_attributes={kernel_metadata={}}"
    text = "\n".join([line + told, other + told, none])
    assert kernels.kernels(text) == [("run.1", 1, 37, (8, 5))]


def test_a_row_is_per_step():
    counted = [
        {"steps": 4.0, "launches": {"a": 9, "b": 1}, "cycles": None},
        {"steps": 1.0, "launches": {"a": 3}, "cycles": None},
    ]
    found = {"cell": "gru", "dtype": "float32", "mode": "train", "contender": "lstm_jax fused"}
    found["shape"] = [8, 2, 3, 4]
    cells = launches._cells(found | {"loops": counted, "temp_size_in_bytes": 2_500_000})
    assert cells[1] == "8,2,3,4"
    assert cells[5:] == ["2.5 + 3 = 5.5", "-", "-", "2.5"]
    assert launches._cells(found | {"note": "cannot: so"})[5:] == ["cannot: so", "", "", ""]


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


def rows_on(target, path, options):
    """What the command finds: in a process of its own, as libtpu reads its flags once."""
    why = devices.why_not(target)
    if why:
        pytest.skip(why)
    options = f"--target {target} --cells lstm --dtypes bfloat16 --rivals none {options}"
    command = [sys.executable, "-m", "bench", "launches", *options.split(), "--json", str(path)]
    subprocess.run([*command, "--implementations", "pallas_tpu"], check=True)
    return json.loads(path.read_text())["rows"]


def test_the_loop_inside_a_kernel_is_divided_by_its_steps(tmp_path):
    """Registers of weights that a step pushes into the matrix units do not depend on T.

    With 4 steps there is no loop, with 6 one, with 64 another, and with 37 two.
    """
    shapes = " ".join(f"{T},8,128,128" for T in (4, 6, 37, 64))
    rows = rows_on("v5e", tmp_path / "found.json", f"--modes train --shapes {shapes}")
    assert len(rows) == 4
    for row in rows:
        assert len(row["loops"]) == 2
        for loop in row["loops"]:
            assert loop["pushes"] / loop["steps"] == 128 * 4 * 128 / (16 * 128)
            assert 30 < loop["cycles"] / loop["steps"] < 70


@pytest.mark.grid
@pytest.mark.parametrize("target", devices.TPUS)
def test_cycles_of_the_kernel(target, tmp_path):
    forward, gradient = rows_on(target, tmp_path / "found.json", "--shapes 64,32,256,256")
    assert sum(loop["cycles"] / loop["steps"] for loop in forward["loops"]) <= 200
    assert sum(loop["cycles"] / loop["steps"] for loop in gradient["loops"]) <= 450
