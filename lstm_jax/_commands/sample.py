"""The command `lstm-jax sample`."""

import dataclasses
from typing import Annotated

import tyro

from ..comparison import language
from . import options
from .options import ModelFile


@dataclasses.dataclass(frozen=True)
class Sample:
    """Continue a prompt with a model that `lstm-jax train` saved."""

    model: Annotated[ModelFile, tyro.conf.arg(metavar="MODEL")]
    """The file that `lstm-jax train` wrote."""
    prompt: str = "\n"
    """The text to continue."""
    length: int = 300
    """Number of characters to generate."""
    temperature: float = 0.7
    """Sampling temperature: below 1 favours likely characters, above 1 rare ones."""
    seed: int = 0
    """Random seed of the sampling."""

    def run(self) -> None:
        """Print the prompt and the generated text."""
        options.check_counts(self, "length")
        options.check_number(self, "temperature", "a finite number above 0", 0.0, above=True)
        options.check_seed(self)
        with options.named("model"):
            model = language.load(self.model)
        print(model.sample(self.prompt, self.length, self.seed, self.temperature))
