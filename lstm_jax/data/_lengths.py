"""The lengths of buckets that make padding least."""

import numpy as np

__all__ = ["best_lengths"]
__dir__ = __all__.copy

_CANDIDATES = 1000
"""Of more different lengths than this some are no candidate for the length of a bucket."""


def best_lengths(steps: np.ndarray, count: int) -> np.ndarray:
    """Choose at most `count` lengths so that padding each of `steps` to the next pads least.

    By dynamic programming over the different lengths u_1 < u_2 < ...: the last of k buckets that
    hold those up to u_j begins after some u_i, so that

        cost_k(j) = min_i cost_{k-1}(i) + u_j (number of steps in (u_i, u_j]),   cost_0(0) = 0
    """
    lengths = np.unique(steps)
    if len(lengths) > _CANDIDATES:
        lengths = lengths[np.linspace(0, len(lengths) - 1, _CANDIDATES).astype(int)]
    below = np.concatenate([[0], np.searchsorted(np.sort(steps), lengths, side="right")])
    count = min(count, len(lengths))
    cost = np.full((count + 1, len(lengths) + 1), np.inf)
    cost[0, 0] = 0
    begin = np.zeros((count + 1, len(lengths) + 1), int)
    for k in range(1, count + 1):
        for j in range(1, len(lengths) + 1):
            costs = cost[k - 1, :j] + lengths[j - 1] * (below[j] - below[:j])
            begin[k, j] = np.argmin(costs)
            cost[k, j] = costs[begin[k, j]]
    ends, j = [], len(lengths)
    for k in range(count, 0, -1):
        ends.append(lengths[j - 1])
        j = begin[k, j]
    return np.asarray(ends[::-1])
