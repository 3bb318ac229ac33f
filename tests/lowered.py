"""Operations of a lowered program."""

from typing import Any


def operations(lowered: Any, name: str) -> list[tuple[tuple[int, ...], bool]]:
    """List (shape of the result, True if inside a loop) of every operation of that name.

    Calls of functions are followed; unused results are left out, as the compiler drops them.

    Args:
        lowered: as from `jax.jit(f).lower(...)`.
        name: such as "stablehlo.dot_general".
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
