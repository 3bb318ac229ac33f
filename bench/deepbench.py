"""Baidu's DeepBench: its recurrent configurations, and NVIDIA's times for them on a V100.

Sources: baidu-research/DeepBench, code/kernels/rnn_problems.h (configurations) and
results/train/DeepBench_NV_V100.xlsx (times: cuDNN 7.6.2, CUDA 10.1). One of the 53 training rows,
GRU 2816 with T 1500, is commented out in the header, but the sheet has it.

Meaning of the published times, by code/nvidia/rnn_bench.cu:

* one layer, one direction, D = H, vanilla is ReLU, no peepholes, CUDNN_RNN_ALGO_STANDARD;
* CUDNN_SKIP_INPUT: the inputs' matmul is not included. `--skip-input` leaves it out too; without
  that option a case computes the whole layer, more work than the published time covers;
* "fwd" is the inference call, also in the training table; the backward passes for data and for
  weights were timed separately, so training is the sum of the three.
"""

from collections.abc import Iterator, Sequence

COLUMNS = (
    "V100 skip input, float32, fwd",
    "V100 skip input, float32, bwd data",
    "V100 skip input, float32, bwd weights",
    "V100 skip input, float16 mixed, fwd",
    "V100 skip input, float16 mixed, bwd data",
    "V100 skip input, float16 mixed, bwd weights",
)

TRAINING = (
    ("vanilla", 1760, 16, 50, 4.2, 2.88, 0.588, 2.96, 2.18, 0.207),
    ("vanilla", 1760, 32, 50, 4.36, 3, 0.939, 2.97, 2.43, 0.309),
    ("vanilla", 1760, 64, 50, 4.67, 3.8, 1.65, 3.28, 2.76, 0.454),
    ("vanilla", 1760, 128, 50, 6.11, 5.16, 3.13, 4.12, 3.17, 0.693),
    ("vanilla", 2048, 16, 50, 4.24, 3.02, 0.746, 2.98, 2.6, 0.239),
    ("vanilla", 2048, 32, 50, 4.58, 3.25, 1.28, 3.24, 2.78, 0.342),
    ("vanilla", 2048, 64, 50, 4.74, 4.17, 2.17, 3.38, 2.87, 0.526),
    ("vanilla", 2048, 128, 50, 7.51, 6.23, 3.96, 4.18, 3.29, 0.817),
    ("vanilla", 2560, 16, 50, 4.5, 3.68, 1.08, 4.33, 2.87, 0.416),
    ("vanilla", 2560, 32, 50, 4.7, 3.89, 1.72, 4.61, 2.96, 0.48),
    ("vanilla", 2560, 64, 50, 6.16, 4.84, 3.5, 4.78, 3.26, 0.701),
    ("vanilla", 2560, 128, 50, 7.77, 7.39, 5.76, 4.92, 3.46, 1.11),
    ("lstm", 512, 16, 25, 1.09, 0.937, 0.165, 0.441, 0.891, 0.079),
    ("lstm", 512, 32, 25, 1.14, 1.01, 0.271, 0.804, 0.954, 0.07),
    ("lstm", 512, 64, 25, 1.34, 1.26, 0.436, 0.79, 1.05, 0.115),
    ("lstm", 512, 128, 25, 1.56, 1.59, 0.703, 0.858, 1.12, 0.221),
    ("lstm", 1024, 16, 25, 1.92, 1.66, 0.445, 1.24, 1.43, 0.151),
    ("lstm", 1024, 32, 25, 1.98, 1.75, 0.698, 1.28, 1.48, 0.227),
    ("lstm", 1024, 64, 25, 2.21, 2.04, 1.16, 1.39, 1.57, 0.341),
    ("lstm", 1024, 128, 25, 3.25, 3.02, 2.11, 1.63, 1.7, 0.516),
    ("lstm", 2048, 16, 25, 3.61, 3.14, 1.25, 2.21, 2.15, 0.415),
    ("lstm", 2048, 32, 25, 3.68, 3.31, 2.17, 2.2, 2.32, 0.562),
    ("lstm", 2048, 64, 25, 5.57, 4.87, 4.1, 2.3, 2.48, 0.862),
    ("lstm", 2048, 128, 25, 9.29, 8.45, 7.85, 2.64, 2.85, 1.41),
    ("lstm", 4096, 16, 25, 10, 9.14, 4.33, 5.58, 5.04, 1.2),
    ("lstm", 4096, 32, 25, 10.5, 9.55, 7.69, 5.74, 5.14, 1.67),
    ("lstm", 4096, 64, 25, 16.6, 15.3, 14.6, 6.88, 5.33, 2.67),
    ("lstm", 4096, 128, 25, 31.2, 30, 28.5, 6.64, 5.92, 4.6),
    ("lstm", 1536, 8, 50, 5.1, 4.57, 0.831, 3.65, 3.25, 0.299),
    ("lstm", 1536, 16, 50, 5.37, 4.64, 1.33, 3.68, 3.44, 0.402),
    ("lstm", 1536, 32, 50, 5.57, 4.82, 2.42, 3.88, 3.6, 0.576),
    ("lstm", 256, 16, 150, 4.54, 5.07, 0.221, 4.07, 5.01, 0.082),
    ("lstm", 256, 32, 150, 4.9, 5.48, 0.404, 4.18, 4.7, 0.133),
    ("lstm", 256, 64, 150, 6.7, 5.8, 0.605, 4.45, 5.43, 0.241),
    ("gru", 2816, 32, 1500, 223, 329, 155, 180, 132, 24.7),
    ("gru", 2816, 32, 750, 113, 166, 77.5, 91.6, 67.7, 12.6),
    ("gru", 2816, 32, 375, 64.9, 84, 39.1, 46, 34.9, 6.11),
    ("gru", 2816, 32, 187, 32.6, 44.1, 19.7, 25.7, 20.1, 3.27),
    ("gru", 2048, 32, 1500, 144, 139, 79.5, 85.3, 87.4, 13.2),
    ("gru", 2048, 32, 750, 73.3, 70.6, 39.9, 43.7, 45.4, 6.74),
    ("gru", 2048, 32, 375, 37.9, 36.6, 20.2, 22.9, 23.7, 3.54),
    ("gru", 2048, 32, 187, 22.1, 20.6, 10.2, 14.3, 14.8, 2.01),
    ("gru", 1536, 32, 1500, 84.8, 103, 45.8, 73, 68.9, 8.24),
    ("gru", 1536, 32, 750, 43.7, 52.4, 23.1, 37.8, 35.9, 4.12),
    ("gru", 1536, 32, 375, 23.2, 27.4, 11.7, 19.8, 19.1, 2.19),
    ("gru", 1536, 32, 187, 15.7, 15.9, 5.93, 12.4, 12.2, 1.25),
    ("gru", 2560, 32, 1500, 200, 183, 134, 164, 116, 20.3),
    ("gru", 2560, 32, 750, 101, 93.5, 66.1, 84.1, 59.7, 10.2),
    ("gru", 2560, 32, 375, 56.7, 47.6, 33, 42.8, 31, 5.17),
    ("gru", 2560, 32, 187, 28.4, 26.2, 16.2, 23.7, 18.7, 2.8),
    ("gru", 512, 32, 1, 0.088, 0.1, 0.09, 0.089, 0.097, 0.084),
    ("gru", 1024, 32, 1500, 59.1, 66.9, 19.9, 40.1, 46.6, 4.07),
    ("gru", 1024, 64, 1500, 80.2, 87, 40, 44.3, 52.8, 7.9),
)
"""Training configurations: (cell, H, B, T, milliseconds in the order of `COLUMNS` ...)."""

DEVICE = (("vanilla", 32, 1, 672), ("vanilla", 64, 1, 96), ("lstm", 256, 1, 150))
"""Device inference configurations: (cell, H, B, T)."""


def published(times: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Pair the times of a training row with their names: (name, milliseconds) each."""
    return tuple(zip(COLUMNS, times, strict=True))


def server() -> Iterator[tuple[str, int, int, int]]:
    """The 69 server inference configurations: (cell, H, B, T)."""
    lstm = [(512, 25), (1024, 25), (2048, 25), (1536, 50), (256, 150)]
    gru = [(H, T) for H in (2816, 2048, 1536, 2560) for T in (1500, 750, 375, 187)]
    sizes = [("lstm", *size) for size in lstm]
    sizes += [("gru", *size) for size in (*gru, (512, 1), (1024, 1500))]
    return ((cell, H, B, T) for cell, H, T in sizes for B in (1, 2, 4))
