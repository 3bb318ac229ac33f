"""Keras 2's CuDNNLSTM and CuDNNGRU: conversion of their weights to those of LSTM and GRU.

In kernel [D, G*H] and recurrent_kernel [H, G*H] each gate's matrix is stored in the memory order of
its transpose; bias [2*G*H] is b_ih followed by b_hh.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._source import as_numpy

GATES = {"LSTM": 4, "GRU": 3}


def from_cudnn(named: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Convert every (kernel, recurrent_kernel, bias) in cuDNN's layout to Keras's layout.

    They are recognised by the bias: only cuDNN's has twice as many elements as the kernel has
    columns.
    """
    arrays = list(named)
    for n in range(len(arrays) - 2):
        names, triple = zip(*arrays[n : n + 3], strict=True)
        if _is_cudnns(*(np.shape(array) for array in triple)):
            made = _converted(*map(as_numpy, triple))
            arrays[n : n + 3] = zip(names, made, strict=True)
    return arrays


def _is_cudnns(kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...]) -> bool:
    if len(kernel) != 2 or len(recurrent) != 2 or kernel[1] != recurrent[1]:
        return False
    units, columns = recurrent
    return columns in [gates * units for gates in GATES.values()] and bias == (2 * columns,)


def _converted(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    gates = recurrent.shape[1] // recurrent.shape[0]
    blocks = [np.reshape(k, k.shape[::-1]).T for k in np.split(kernel, gates, axis=1)]
    squares = [k.T for k in np.split(recurrent, gates, axis=1)]
    both = bias.reshape(2, -1)
    last = both.sum(0) if gates == GATES["LSTM"] else both
    return [np.concatenate(blocks, axis=1), np.concatenate(squares, axis=1), last]
