"""Cases and suites: a case is a network and the shape of its data, a suite a list of cases.

everyday           16 cases out of the grid H 32-512, B 1-128, T 32-512, D = H: seven corners of the
                   cube (the eighth, T 512, B 128, H 512, takes minutes on two cores: T 128 stands
                   in), the middle, and every value of each letter at least twice; a GRU, an RNN,
                   and two layers in both directions at one point each. Minutes on two cores.
deepbench          53 training configurations of Baidu's DeepBench, the published V100 times beside.
deepbench-server   its 69 server inference configurations.
deepbench-device   its three device inference configurations.
flashrnn           FlashRNN's grid: T 1024, B 16, heads x head size = 768, inputs projected before.
rl                 T 128, B 128, H 256, 3 % of the steps begin an episode (the setting of TorchRL's
                   recurrent benchmarks, pytorch/rl#3816); the same without resets; LSTM and GRU.
ragged             lengths uniform in [T/4, T], the longest T.
long               long sequences, small networks.
accelerator        what `python -m bench accelerator` times: each cell in float32 and bfloat16, at
                   three shapes, so that a run that ends early has a shape of all cells.
smoke              tiny cases, to see that everything runs.
"""

import dataclasses
from collections.abc import Callable

from . import deepbench

OWN = {"own_summed": 3, "own_apart": 2}
"""Number of gates G of the cells of `own`, which no rival has, by name."""
APART = {"min_gru": 2}
"""Number of gates G of cells without a recurrent matmul, which no rival has either, by name."""
CELLS = {"rnn": 1, "rnn_relu": 1, "lstm": 4, "gru": 3} | OWN | APART
"""Number of gates G by cell; the GRU's reset gate acts after the matmul, as in PyTorch."""
INPUTS = ("linear", "skip", "projected")
DTYPES = ("float32", "bfloat16", "float64")

Published = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and the shape of its data.

    Attributes:
        cell: a name in `CELLS`.
        T, B, D, H, L: time steps, batch, input size, hidden size, layers.
        bidirectional: every layer runs in both directions, and outputs are concatenated.
        heads: number of diagonal blocks of the recurrent matrix.
        inputs: "linear": x_t @ w_ih; "skip": x_t [B, H] is added to every gate (cuDNN's
            CUDNN_SKIP_INPUT, DeepBench's setting); "projected": x_t [B, G*H] is given.
        ragged: lengths are uniform in [T/4, T].
        resets: the share of steps that begin a new episode.
        dtype: the dtype of weights and inputs.
        published: times that others measured: (name, milliseconds) each.
    """

    cell: str
    T: int
    B: int
    D: int
    H: int
    L: int = 1
    bidirectional: bool = False
    heads: int = 1
    inputs: str = "linear"
    ragged: bool = False
    resets: float = 0.0
    dtype: str = "float32"
    published: Published = ()

    def __str__(self) -> str:
        words = [self.cell, f"T{self.T}", f"B{self.B}", f"D{self.D}", f"H{self.H}"]
        words += [f"L{self.L}"] * (self.L > 1) + ["both ways"] * self.bidirectional
        words += [f"{self.heads} heads"] * (self.heads > 1) + ["ragged"] * self.ragged
        words += [f"inputs {self.inputs}"] * (self.inputs != "linear")
        words += [f"resets {self.resets:g}"] * (self.resets > 0)
        return " ".join(words + [self.dtype] * (self.dtype != "float32"))

    @property
    def G(self) -> int:
        """The number of gates."""
        return CELLS[self.cell]

    @property
    def N(self) -> int:
        """The size of the last axis of ys."""
        return self.H * (2 if self.bidirectional else 1)

    @property
    def input_size(self) -> int:
        """The size of the last axis of xs: D, or that of projected inputs."""
        return {"linear": self.D, "skip": self.H, "projected": self.G * self.H}[self.inputs]


# ---- suites --------------------------------------------------------------------------------------
EVERYDAY = (
    (32, 1, 32), (512, 1, 32), (32, 128, 32), (512, 128, 32),
    (32, 1, 512), (512, 1, 512), (32, 128, 512), (128, 128, 512),
    (128, 1, 128), (128, 8, 64), (128, 32, 128), (32, 32, 256), (512, 8, 256),
)  # fmt: skip
"""(T, B, H) of the corners of the cube, then of points inside."""


def everyday() -> list[Case]:
    more = [Case("gru", 128, 32, 128, 128), Case("rnn", 128, 32, 128, 128)]
    more += [Case("lstm", 128, 32, 64, 64, L=2, bidirectional=True)]
    return [Case("lstm", T, B, H, H) for T, B, H in EVERYDAY] + more


def deepbench_training() -> list[Case]:
    return [
        Case(CELL_OF[kind], T, B, H, H, published=deepbench.published(times))
        for kind, H, B, T, *times in deepbench.TRAINING
    ]


def deepbench_server() -> list[Case]:
    return [Case(CELL_OF[kind], T, B, H, H) for kind, H, B, T in deepbench.server()]


def deepbench_device() -> list[Case]:
    return [Case(CELL_OF[kind], T, B, H, H) for kind, H, B, T in deepbench.DEVICE]


CELL_OF = {"vanilla": "rnn_relu", "lstm": "lstm", "gru": "gru"}
"""Cells by their names in DeepBench, whose vanilla RNN has a ReLU."""


FLASHRNN = {
    48: (3.56, 8.22, 7.84, 17.9),
    24: (2.90, 8.20, 8.12, 18.8),
    12: (3.10, 8.64, 8.19, 20.5),
    6: (3.22, 9.02, 8.80, 21.7),
    3: (3.62, 11.30, 10.47, 33.5),
    1: (4.87, 13.61, 10.79, 26.5),
}
"""Milliseconds by number of heads: fused forward, fused training, alternating forward and training.

Read off the labels of FlashRNN's figure head_dim--lstm (NX-AI/flashrnn; Poeppel, Beck & Hochreiter
2024, arXiv 2412.07752): H100, bfloat16, CUDA kernels. The same figure has PyTorch's nn.LSTM
(cuDNN, float16) at 2.01 and 5.19 ms for one head of 768.
"""


def flashrnn() -> list[Case]:
    what = ("H100 fused fwd", "H100 fused train", "H100 alternating fwd", "H100 alternating train")
    cases = [
        Case("lstm", 1024, 16, 768, 768, heads=heads, inputs="projected",
             published=tuple(zip(what, times, strict=True)))
        for heads, times in FLASHRNN.items()
    ]  # fmt: skip
    torch = (("H100 nn.LSTM float16 fwd", 2.01), ("H100 nn.LSTM float16 train", 5.19))
    return [*cases, Case("lstm", 1024, 16, 768, 768, published=torch)]


def rl() -> list[Case]:
    shape = 128, 128, 256, 256
    plain = [Case(cell, *shape) for cell in ("lstm", "gru")]
    resetting = [Case(cell, *shape, resets=0.03) for cell in ("lstm", "gru")]
    return [*plain, *resetting, Case("lstm", 128, 16, 64, 64, resets=0.03)]


def ragged() -> list[Case]:
    return [
        Case("lstm", 128, 32, 128, 128, ragged=True),
        Case("gru", 128, 32, 128, 128, ragged=True),
        Case("lstm", 128, 32, 64, 64, L=2, bidirectional=True, ragged=True),
        Case("lstm", 512, 8, 256, 256, ragged=True),
    ]


def long() -> list[Case]:
    shapes = ((2048, 1, 32), (2048, 16, 64), (8192, 1, 64), (8192, 4, 32), (16384, 1, 16))
    cells = ("lstm", "gru")
    return [Case(cell, T, B, H, H) for cell in cells for T, B, H in shapes]


def accelerator() -> list[Case]:
    return [
        Case(cell, T, B, H, H, dtype=dtype)
        for T, B, H in ((128, 32, 256), (128, 1, 64), (128, 64, 512))
        for cell in ("lstm", "gru", "rnn", "min_gru")
        for dtype in ("float32", "bfloat16")
    ]


def smoke() -> list[Case]:
    return [
        Case("lstm", 6, 3, 4, 5),
        Case("gru", 6, 3, 4, 5, L=2, bidirectional=True),
        Case("rnn_relu", 6, 3, 4, 5, resets=0.2),
        Case("rnn", 6, 3, 4, 5, ragged=True),
    ]


SUITES: dict[str, Callable[[], list[Case]]] = {
    "everyday": everyday,
    "deepbench": deepbench_training,
    "deepbench-server": deepbench_server,
    "deepbench-device": deepbench_device,
    "flashrnn": flashrnn,
    "rl": rl,
    "ragged": ragged,
    "long": long,
    "accelerator": accelerator,
    "smoke": smoke,
}


def parse(text: str) -> Case:
    """Parse "T,B,D,H" or "T,B,D,H,L" as an LSTM case.

    Raises:
        ValueError: not four or five positive integers.
    """
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (4, 5) or min(sizes) < 1:
        raise ValueError(
            f"--case: got {text!r}, wanted T,B,D,H or T,B,D,H,L; such as 100,32,64,128"
        )
    T, B, D, H, L = (*sizes, 1)[:5]
    return Case("lstm", T, B, D, H, L)


def at_three_lengths(cases: list[Case]) -> list[Case]:
    """Expand each case to T/4, T/2 and T, to fit the slope in T."""
    lengths = [(case, max(1, case.T // divisor)) for case in cases for divisor in (4, 2, 1)]
    return [dataclasses.replace(case, T=T, published=()) for case, T in lengths]
