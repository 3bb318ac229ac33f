"""Published experiments on gradient flow, run again: one file or folder for each, by number."""
