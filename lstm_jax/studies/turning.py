"""RMSprop for parametrised matrices: what turns them learns more slowly than the rest."""

from typing import Any

import jax
import optax

__all__ = ["slower_turns"]
__dir__ = __all__.copy


def slower_turns(
    rate: float, skew_rate: float, decay: float, limit: float
) -> optax.GradientTransformation:
    """RMSprop, gradients clipped to +-limit, with a rate of its own for every leaf "skew".

    Such leaves are those of `regularizers.Orthogonal` and `NearOrthogonal`.
    """

    def labels(params: Any) -> Any:
        def label(path: Any, leaf: Any) -> str:
            return "skew" if path[-1].key == "skew" else "other"

        return jax.tree_util.tree_map_with_path(label, params)

    rules: Any = {
        name: optax.rmsprop(each, decay=decay)
        for name, each in (("skew", skew_rate), ("other", rate))
    }
    return optax.chain(optax.clip(limit), optax.multi_transform(rules, labels))
