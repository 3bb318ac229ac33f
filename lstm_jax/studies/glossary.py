"""The terms of the laboratory, each explained in a sentence for who meets it first on a page."""

import re
from collections.abc import Iterable

__all__ = ["TERMS", "explained"]
__dir__ = __all__.copy

Term = tuple[dict[str, str], str]

TERMS: tuple[Term, ...] = (
    (
        {"h": r"\bh\b|dL/dh", "hidden state": r"hidden state"},
        "what a recurrent cell hands on and puts out.",
    ),
    (
        {"c": r"\bc\b|dL/dc", "cell state": r"cell state"},
        "the state of an LSTM that each step multiplies by the forget gate and adds to.",
    ),
    (
        {"carry": r"\bcarry\b"},
        "what a cell hands from one step to the next: its h, and of an LSTM c too.",
    ),
    (
        {
            "f": r"\bf\^",
            "forget gate": r"forget gate",
            "b_f": r"b_f\b",
            "forget bias": r"forget bias",
        },
        "the forget gate is a number between 0 and 1 for each unit, by which its c is multiplied "
        "at a step; without input or recurrent weights it is the sigmoid of its bias b_f.",
    ),
    (
        {"forgetting time": r"forgetting time"},
        "the steps after which a forget gate has left 1/e, about a third, of the cell state.",
    ),
    (
        {"chrono": r"\bchrono\b", "T_max": r"T_max"},
        "a start that draws forget biases so that 1/(1 - f) steps, about the forgetting times, are "
        "spread evenly up to T_max.",
    ),
    ({"l": r"\bl\b"}, "the number by which a linear unit multiplies its state at each step."),
    ({"lag": r"\blags?\b"}, "the number of steps between an input, or a state, and the loss."),
    (
        {"gradient": r"gradient", "dL/dh": r"dL/dh", "dL/dc": r"dL/dc"},
        "how the loss L changes with a weight or a state; its norm is its length.",
    ),
    (
        {"nats": r"\bnats?\b"},
        "a natural logarithm: -1 nat a step is a factor of 1/e, 0.37, at each step.",
    ),
    ({"W": r"\bW\b"}, "the recurrent matrix, by which the state is multiplied at each step."),
    (
        {"spectral radius": r"spectral radius", "rho": r"\brho\b"},
        "the size of the largest eigenvalue of W.",
    ),
    (
        {"singular value": r"singular value"},
        "the factor by which a matrix stretches one of its principal directions.",
    ),
    (
        {"gain": r"\bgain\b", "g": r"N\(0, g"},
        "the scale of a random W: its entries have the standard deviation g / sqrt(N), N the "
        "number of units.",
    ),
    (
        {"chi": r"\bchi\b"},
        "the mean factor by which a step of a large random network changes the squared length of "
        "a gradient: below 1 it vanishes, above 1 it explodes.",
    ),
    (
        {"MinimalRNN": r"MinimalRNN", "candidate": r"\bcandidates?\b"},
        "a MinimalRNN has one gate z and the state z h + (1 - z) n; the new content n, the "
        "candidate, is a function of the input alone.",
    ),
    ({"white input": r"white inputs?"}, "random numbers, each drawn for itself, with mean 0."),
    (
        {"G1 to G9": r"\bG[1-9]\b"},
        "closed forms with which the library's own tests compare it, in tests/test_anchors.py.",
    ),
    (
        {"mean field": r"mean[- ]field"},
        "the limit of infinitely many units, in which formulas tell what a random network does.",
    ),
    (
        {"Lyapunov exponent": r"Lyapunov|\bexponents?\b"},
        "the rate, in nats a step, at which two nearby states part (above 0) or meet (below 0); a "
        "network has one for each direction, the first is the largest.",
    ),
    (
        {"BPTT": r"\bBPTT\b", "backpropagation through time": r"[Bb]ackpropagation through time"},
        "backpropagation through time computes the gradient from the last step to the first.",
    ),
    (
        {"Jacobian": r"\bJacobians?\b"},
        "the matrix of derivatives of one state with respect to the one before it.",
    ),
    (
        {"cosine": r"\bcosine\b"},
        "1 if two gradients point the same way, 0 if they have nothing in common.",
    ),
    (
        {"orthogonal": r"\borthogonal"},
        "of a matrix: it turns vectors and leaves their length as it is.",
    ),
    ({"clipping": r"\bclip"}, "a gradient longer than a bound is shortened to that bound."),
    (
        {"Omega": r"\bOmega\b"},
        "a penalty on gradients that shrink or grow from one step to the step before (Pascanu, "
        "Mikolov & Bengio 2013).",
    ),
    ({"flossing": r"\bfloss"}, "updates that push Lyapunov exponents towards 0 (Engelken 2023)."),
    (
        {"teacher forcing": r"\bforcing\b"},
        "states of the network are replaced by those of the data every few steps of training.",
    ),
    (
        {"teacher": r"\bteacher(?! forcing)"},
        "the network that made the data, which another learns.",
    ),
    (
        {"the adding problem": r"\badding\b"},
        "two of many numbers are marked; the answer at the end is their sum.",
    ),
    ({"copying": r"\bcopy(ing)?\b"}, "symbols must be repeated after a long wait."),
    (
        {"temporal order": r"temporal[- ]order"},
        "which of a few rare symbols came first must be told at the end.",
    ),
    (
        {"reparametrised": r"reparametri[sz]", "nu": r"\bnu\b"},
        "a parameter is learned as a function of another one, such as l = exp(-exp(nu)).",
    ),
    (
        {"curvature": r"\bcurvature\b"},
        "the second derivative of the loss; where it is large, only small steps are safe.",
    ),
    (
        {"perplexity": r"perplexity", "bits per character": r"bits per character"},
        "how well a text is predicted: lower is better.",
    ),
)
"""({name: pattern of the words that it explains}, explanation) of each term."""


def explained(texts: Iterable[str]) -> dict[str, str]:
    """The terms that occur in texts, by those of their names that do, with their explanations."""
    text = "\n".join(texts)
    found = {}
    for names, meaning in TERMS:
        used = [name for name, pattern in names.items() if re.search(pattern, text)]
        if used:
            found[", ".join(used)] = meaning
    return found
