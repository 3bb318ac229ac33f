"""Studies of gradient flow, one file each; `study.run` runs all of them."""
