"""The studies of the laboratory, by id: those that are built, and those that are not."""

from . import (
    s04_cliff_descent,
    s05_identity_starts,
    s06_unitary_copying,
    s09_chrono,
    s10_start_slopes,
    s11_soft_orthogonality,
    s12_gru_bound,
    s13_criticality,
    s14_lyapunov_learning,
    s15_flossing,
    s17_clipping_speed,
    s18_penalties,
    s19_memory,
    s20_noise_padding,
    s22_forward_errors,
)
from .record import Study
from .s03_clipping import study as s03_clipping
from .s07_forget_gate import study as s07_forget_gate
from .s16_chaotic import study as s16_chaotic
from .s21_state_tracking import study as s21_state_tracking

__all__ = ["NOT_BUILT", "STUDIES"]
__dir__ = __all__.copy

STUDIES: dict[str, Study] = {
    study.id: study
    for study in (
        s03_clipping.STUDY,
        s04_cliff_descent.STUDY,
        s05_identity_starts.STUDY,
        s06_unitary_copying.STUDY,
        s07_forget_gate.STUDY,
        s09_chrono.STUDY,
        s10_start_slopes.STUDY,
        s11_soft_orthogonality.STUDY,
        s12_gru_bound.STUDY,
        s13_criticality.STUDY,
        s14_lyapunov_learning.STUDY,
        s15_flossing.STUDY,
        s16_chaotic.STUDY,
        s17_clipping_speed.STUDY,
        s18_penalties.STUDY,
        s19_memory.STUDY,
        s20_noise_padding.STUDY,
        s21_state_tracking.STUDY,
        s22_forward_errors.STUDY,
    )
}

NOT_BUILT: dict[str, str] = {
    "S1": "The tasks of Hochreiter & Schmidhuber (1997)",
    "S2": "Latching a bit (Bengio, Simard & Frasconi 1994)",
    "S8": "An LSTM without each of its parts (Greff et al. 2017)",
}
"""Titles of published experiments that the catalogue has and the laboratory not yet."""
