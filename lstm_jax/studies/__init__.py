"""Studies of gradient flow, one file each; `study.run` is the whole of them."""
