"""The benchmark of lstm_jax, `python -m bench`: speed and memory beside other libraries.

python -m bench --suite everyday --json everyday.json     # measure, beside every rival installed
python -m bench --case 100,32,64,128 --cell gru           # one case T,B,D,H[,L]
python -m bench accelerator --json device.json            # tests and times of a GPU or TPU
python -m bench report everyday.json                      # the comparison, PNG and Markdown

Letters: T time, B batch, D input, H hidden, G gates, L layers.
"""
