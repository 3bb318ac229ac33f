"""What the compiler is given, as a list of operations."""

from typing import Any


def operations(lowered: Any, name: str) -> list[tuple[tuple[int, ...], bool]]:
    """(shape of the result, whether inside a loop) of every operation of that name.

    lowered: as from `jax.jit(f).lower(...)`; name: such as "stablehlo.dot_general". Functions are
    followed where they are called. What nothing uses is left out: the compiler drops it.
    """
    module = lowered.compiler_ir("stablehlo")
    functions = {str(f.attributes["sym_name"]).strip('"'): f for f in module.body.operations}
    found = []

    def visit(op: Any, inside: bool) -> None:
        if op.name == name and list(op.results[0].uses):
            found.append((tuple(op.results[0].type.shape), inside))
        if op.name == "func.call":
            visit(functions[str(op.attributes["callee"]).strip("@")].operation, inside)
        for region in op.regions:
            for block in region:
                for child in block:
                    visit(child.operation, inside or op.name == "stablehlo.while")

    visit(functions["main"].operation, False)
    return found
