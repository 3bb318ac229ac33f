#!/usr/bin/env bash
# The kernel under the address, undefined-behaviour and thread sanitizers: calls that an installed
# kernel answered (record.py) are repeated by one built for each sanitizer, for each instruction set
# (replay.cc); AMX's tiles are emulated. Needs an editable install with the kernel, and GCC with its
# sanitizers.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
JAX_PLATFORMS=cpu "$python" tests/native/record.py "$folder/calls"
headers=$("$python" -c "import jax; print(jax.ffi.include_dir())")

for sanitizer in address,undefined thread; do
  "${CXX:-g++}" -std=c++17 -O1 -g1 -w "-fsanitize=$sanitizer" -fno-sanitize-recover=all -rdynamic \
    -DLSTM_JAX_EMULATED_TILES=1 \
    "-I$headers" tests/native/replay.cc lstm_jax/_recurrence/engines/native/kernel.cc \
    -o "$folder/replay" -ldl -lpthread
  for instructions in amx avx512bf16 avx512 avx2 portable; do
    echo "$sanitizer, $instructions:"
    LSTM_JAX_INSTRUCTIONS=$instructions timeout 600 "$folder/replay" "$folder/calls"
  done
done
