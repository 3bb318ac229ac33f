"""`lstm-jax sample`."""

import dataclasses

from ..studies import language
from . import options
from .options import ModelFile


@dataclasses.dataclass(frozen=True)
class Sample:
    """Continue a prompt with a model that `lstm-jax train` saved."""

    model: ModelFile
    """The file that `lstm-jax train` wrote."""
    prompt: str = "\n"
    """The text to continue."""
    length: int = 300
    """Characters to add."""
    temperature: float = 0.7
    """Below 1 the likely, above 1 the surprising."""
    seed: int = 0
    """Of the draw."""

    def run(self) -> None:
        """Print the prompt and what follows it."""
        options.check_counts(self, "length")
        options.check_number(self, "temperature", "a finite number above 0", 0.0, above=True)
        options.check_seed(self)
        with options.named("model"):
            model = language.load(self.model)
        print(model.sample(self.prompt, self.length, self.seed, self.temperature))
