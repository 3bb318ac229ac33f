"""The studies of the laboratory, by id: those that are built, and those that are not."""

from . import (
    chaotic,
    chrono,
    cliff_descent,
    clipping,
    clipping_speed,
    criticality,
    flossing,
    forget_gate,
    forward_errors,
    gru_bound,
    identity_starts,
    lyapunov_learning,
    memory,
    noise_padding,
    soft_orthogonality,
    start_slopes,
    state_tracking,
    unitary_copying,
)
from .record import Study

__all__ = ["NOT_BUILT", "STUDIES"]
__dir__ = __all__.copy

STUDIES: dict[str, Study] = {
    study.id: study
    for study in (
        clipping.STUDY,
        cliff_descent.STUDY,
        identity_starts.STUDY,
        unitary_copying.STUDY,
        forget_gate.STUDY,
        chrono.STUDY,
        start_slopes.STUDY,
        soft_orthogonality.STUDY,
        gru_bound.STUDY,
        criticality.STUDY,
        lyapunov_learning.STUDY,
        flossing.STUDY,
        chaotic.STUDY,
        clipping_speed.STUDY,
        memory.STUDY,
        noise_padding.STUDY,
        state_tracking.STUDY,
        forward_errors.STUDY,
    )
}

NOT_BUILT: dict[str, str] = {
    "S1": "The tasks of Hochreiter & Schmidhuber (1997)",
    "S2": "Latching a bit (Bengio, Simard & Frasconi 1994)",
    "S8": "An LSTM without each of its parts (Greff et al. 2017)",
    "S18": "Regularisers and the gradient",
}
"""Titles of published experiments that the catalogue has and the laboratory not yet."""
