"""The command `lstm-jax convert`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from .. import checkpoint, interop
from .._checks import fail
from .._files import check_target
from .._layers import Readout
from ..comparison import language
from . import options
from .options import NPZ, ModelFile

READING = ("prefix", "layers", "activation", "double_bias")
"""Fields of `Convert` that are options of `interop.files.read`."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights between file formats, told apart by the files' suffixes.

    Formats: .pt, .pth (PyTorch); .safetensors; .keras, .weights.h5 (Keras); .onnx; .npz (our own).
    """

    source: Annotated[ModelFile, tyro.conf.arg(metavar="SOURCE")]
    """The file to read."""
    target: Annotated[ModelFile, tyro.conf.arg(metavar="TARGET")]
    """The file to write. After an error it is as it was before."""
    prefix: str = ""
    """Prefix of the RNN's tensor names in a PyTorch state dict, for example encoder.rnn."""
    layers: tuple[str, ...] = ()
    """Names of the Keras layers or ONNX nodes to convert, in order. None given: all."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of an RNN whose file does not say which one it has."""
    double_bias: bool = False
    """Keep two biases apart instead of adding them; it matters if you train the net further."""
    overwrite: bool = False
    """Replace TARGET if it exists."""

    def run(self) -> None:
        """Read the source, write the target, and print a summary."""
        if self.target.suffix != NPZ:
            interop.files.check_suffix("target", self.target)
        check_target(self.target, argument="target")
        options.check_new("target", self.target, self.overwrite)
        net, params, more = self.read()
        left_out = ""
        if self.target.suffix == NPZ:
            checkpoint.save(self.target, params, {"net": interop.files.describe(net), **more})
        else:
            if isinstance(net, Readout):
                net, params, more = net.inner, params["inner"], {"readout": None, **more}
            interop.files.write(net, params, self.target)
            if more:
                left_out = f", without {' and '.join(more)}, which it has no place for"
        summary = interop.files.summary(net, params)
        print(f"{self.source}:\n{summary}\nwrote {self.target}{left_out}")

    def read(self) -> tuple[Any, Any, dict[str, Any]]:
        """Read the source as (net, params, other contents by name)."""
        with options.named_as(path="source", nodes="--layers", **self._typed()):
            if self.source.suffix != NPZ:
                return *interop.files.read(self.source, **self._given()), {}
        for name, value in self._given().items():
            seen = "it" if value is True else repr(value)
            raise fail(options.typed(name), seen, "none, for a .npz file", "leave it out")
        with options.named("source"):
            params, description = checkpoint.load(self.source)
            if "cell" in description:
                model = language.load(self.source)
                return model.model.net, model.params, {"vocabulary": model.vocabulary.chars}
            if "net" not in description:
                remedy = "pass a file that `lstm-jax train` or `lstm-jax convert` wrote"
                raise fail("source", str(sorted(description)), "a description of a net", remedy)
            net = interop.files.build(description["net"])
            more = {name: value for name, value in description.items() if name != "net"}
            return *interop.files.own(net, interop.files.by_path(params)), more

    def _given(self) -> dict[str, Any]:
        """The options for `interop.files.read` that the user gave."""
        given = {name: getattr(self, name) for name in READING}
        return {name: value for name, value in given.items() if value and value != "tanh"}

    def _typed(self) -> dict[str, str]:
        """The options for `interop.files.read`, as the user types them."""
        return {name: options.typed(name) for name in READING}
