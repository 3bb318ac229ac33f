"""`lstm-jax convert`."""

import dataclasses
from typing import Any, Literal

from .. import checkpoint, interop
from .._checks import fail
from .._files import check_target
from .._layers import Readout
from ..studies import language
from . import options
from .options import NPZ, ModelFile


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights from one format to another, by the suffixes of the files.

    .pt and .pth (PyTorch), .safetensors, .keras and .weights.h5 (Keras), .onnx, .npz (ours).
    """

    source: ModelFile
    """The file to read."""
    target: ModelFile
    """The file to write, whole or not at all."""
    prefix: str = ""
    """Where the names of a state dict begin, such as encoder.rnn."""
    layers: tuple[str, ...] = ()
    """The layers of a Keras model, or the nodes of an ONNX graph, to take, in order."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of an RNN, where the file does not tell."""
    double_bias: bool = False
    """Keep two biases apart, as they train otherwise than one."""

    def run(self) -> None:
        """Read, tell, write."""
        if self.target.suffix != NPZ:
            interop.files.check_suffix("target", self.target)
        check_target(self.target, argument="target")
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
        """(net, params, what else there is by name) of the source."""
        if self.source.suffix != NPZ:
            with options.named("source", "path"):
                return *interop.files.read(self.source, **self._given()), {}
        with options.named("source"):
            params, description = checkpoint.load(self.source)
            if "cell" in description:
                model = language.load(self.source)
                return *model.net(), {"vocabulary": model.vocabulary.chars}
            if "net" not in description:
                remedy = "pass a file that `lstm-jax train` or `lstm-jax convert` wrote"
                raise fail("source", str(sorted(description)), "a description of a net", remedy)
            net = interop.files.build(description["net"])
            more = {name: value for name, value in description.items() if name != "net"}
            return *interop.files.own(net, interop.files.by_path(params)), more

    def _given(self) -> dict[str, Any]:
        """The options of the format that were given."""
        given = dataclasses.asdict(self)
        del given["source"], given["target"]
        if given["activation"] == "tanh":
            del given["activation"]
        return given
