"""S4, the cliff: what clipping the gradient does where the loss has a wall.

The network of one unit of `cliff`, with the place and the height of the wall in closed form:

    wall        b = 0.5 - sigmoid(0.5) w, where x_0 = 0.5 is an unstable fixed point of slope
                s = w sigmoid'(0.5);  dx_50/db = (s^50 - 1)/(s - 1) =: d,
                dx_50/dw = sigmoid(0.5) d

Source: Pascanu, Mikolov & Bengio (2013), arXiv 1211.5063, equation 8 and figures 3 and 6; the
figures are qualitative, the numbers are computed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..charts import Chart, line
from . import cliff
from .record import Anchor, Findings, Setting, Study

__all__ = ["STUDY", "wall"]
__dir__ = __all__.copy

AT = 0.5  # x_0
SIGMA = 1 / (1 + np.exp(-AT))
SLOPE = SIGMA * (1 - SIGMA)
NEIGHBOURS = 8
STEPS = 2000


def wall(w: float) -> tuple[float, float]:
    """(b of the wall, norm of the gradient of E there), in closed form."""
    s = SLOPE * w
    dx_db = (s**cliff.STEPS_OF_TIME - 1) / (s - 1)
    return AT - SIGMA * w, abs(2 * (SIGMA - 0.7) * SLOPE * dx_db) * np.hypot(1, SIGMA)


def _gradient(w: float, b: Any) -> Any:
    """Norms of the gradient of E at w, for each b."""
    norms = jax.jit(jax.vmap(jax.grad(cliff.error, argnums=(0, 1)), in_axes=(None, 0)))
    with jax.enable_x64(True):
        found = norms(jnp.asarray(w, jnp.float64), jnp.atleast_1d(jnp.asarray(b, jnp.float64)))
        return np.hypot(*map(np.asarray, found))


def _run(setting: Setting) -> Findings:
    runs = {"plain": [], "clipped": []}
    starts = [
        start + np.array([0.0, 1e-13]) * NEIGHBOURS * seed
        for seed in setting.seeds
        for start in cliff.STARTS
    ]
    around = np.concatenate([cliff.neighbours(tuple(start), NEIGHBOURS) for start in starts])
    for name, max_norm in (("plain", None), ("clipped", 1.0)):
        descent = cliff.descend(max_norm, steps=STEPS, starts=around)
        moves = np.linalg.norm(np.diff(descent.points, axis=1), axis=-1).max(axis=1)
        shape = (len(setting.seeds), len(cliff.STARTS), NEIGHBOURS)
        runs[name] = [
            np.median(descent.errors[:, -1].reshape(shape), axis=2),
            np.median(moves.reshape(shape), axis=2),
            np.median(descent.errors.reshape(*shape, -1), axis=2)[..., :: STEPS // 100],
        ]
    measured: dict[str, Any] = {}
    for n, _ in enumerate(cliff.STARTS):
        measured[f"plain {n}"] = runs["plain"][0][:, n]
        measured[f"clipped {n}"] = runs["clipped"][0][:, n]
        measured[f"moves {n}"] = runs["plain"][1][:, n] / runs["clipped"][1][:, n]
    for w in (5.0, 6.0):
        measured[f"height {w:g}"] = [float(_gradient(w, wall(w)[0])[0])] * len(setting.seeds)
    b = np.linspace(-4.5, -1.0, 2001)
    flat = _gradient(5.0, b)
    measured["flat"] = [float(np.median(flat))] * len(setting.seeds)
    near = wall(5.0)[0] + np.concatenate([-np.geomspace(1, 1e-6, 60), np.geomspace(1e-6, 1, 60)])
    data = {
        "update": np.arange(0, STEPS + 1, STEPS // 100),
        "plain": runs["plain"][2],
        "clipped": runs["clipped"][2],
        "b": near,
        "norms": _gradient(5.0, near),
    }
    return Findings(measured, data)


def _draw(data: dict[str, Any]) -> list[Chart]:
    plain, clipped = (np.array(data[name], float) for name in ("plain", "clipped"))
    lines = [
        line(f"{name}, from w = {w}, b = {b}", data["update"], values[:, n])
        for name, values in (("not clipped", plain), ("clipped to 1", clipped))
        for n, (w, b) in enumerate(cliff.STARTS)
    ]
    descent = Chart(
        "descent",
        f"Clipped, descent ends at an error of {np.median(clipped[..., -1]):.1g}; "
        f"not clipped, the wall throws it to {np.median(plain[..., -1]):.2f}",
        "updates",
        "error E",
        lines,
        f"Of each seed the median over {NEIGHBOURS} starts within 1e-12, as the wall magnifies the "
        "last bits. Both starts end alike, so that one line may hide the other.",
        log_y=True,
    )
    norms = np.array(data["norms"])
    profile = Chart(
        "wall",
        f"The gradient rises from {norms[0]:.2g} beside the wall to {norms.max():.0f} on it",
        "b",
        "norm of the gradient of E, w = 5",
        [line("norm of the gradient", data["b"], norms)],
        f"The wall is 1e-4 wide. Where x_0 is a fixed point, at b = {wall(5.0)[0]:.6f}, a formula "
        f"gives {wall(5.0)[1]:.0f}; some 1e-5 beside it the gradient is larger.",
        log_y=True,
    )
    return [descent, profile]


_DESCENT = f"{STEPS} updates, learning rate 0.05, float64; median of {NEIGHBOURS} near starts"
_OURS = "an earlier computation; the paper's figure 6 has no numbers"


def _of_start(n: int, start: tuple[float, float], plain: float, moves: float) -> list[Anchor]:
    at = f"from w = {start[0]}, b = {start[1]}"
    return [
        Anchor(f"{id} {n}", f"{quantity}, {at}", number, "C", kind, bound, _OURS, _DESCENT)
        for id, quantity, number, kind, bound in (
            ("plain", "final error without clipping", plain, "above", 0.05),
            ("clipped", "final error, clipped to 1", 1e-5, "below", 1e-4),
            ("moves", "largest update without clipping over that with it", moves, "above", 50.0),
        )
    ]


def _anchors() -> tuple[Anchor, ...]:
    walls = [
        Anchor(
            f"height {w:g}",
            f"norm of the gradient where x_0 is a fixed point, w = {w:g}, b = {wall(w)[0]:.4f}",
            float(wall(w)[1]),
            "C",
            "relative",
            1e-3,
            "closed form, G3",
            "float64: float32 rounds away from the wall",
        )
        for w in (5.0, 6.0)
    ]
    flat = Anchor(
        "flat",
        "median norm of the gradient over b in [-4.5, -1], w = 5",
        0.046,
        "C",
        "absolute",
        0.002,
        "an earlier computation, G3",
    )
    first, second = cliff.STARTS
    return (
        *_of_start(0, first, 0.09, 113),
        *_of_start(1, second, 0.0893, 67.6),
        *walls,
        flat,
    )


STUDY = Study(
    "S4",
    "The cliff, and clipping",
    "Why must a gradient be clipped? One unit, x_t = w sigmoid(x_{t-1}) + b from x_0 = 0.5, has "
    "the error E = (sigmoid(x_50) - 0.7)^2 after 50 steps. As a function of its two parameters w "
    "and b, E is flat with one steep wall; an update on the wall goes as far as its gradient is "
    "long.",
    _anchors(),
    _run,
    _draw,
)
