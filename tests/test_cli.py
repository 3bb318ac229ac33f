"""The command line: train and sample work together, and mistakes are one line."""

import json
import subprocess
import sys

import pytest
import registry

from lstm_jax import cli


def lines(capsys):
    return capsys.readouterr().out.strip().splitlines()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question. " * 300, encoding="utf-8")
    return path


def test_train_then_sample(text, tmp_path, capsys):
    model, log = tmp_path / "model.npz", tmp_path / "log.jsonl"
    sizes = ["--steps", "30", "--hidden-size", "16", "--batch-size", "8", "--window", "16"]
    files = ["--text", str(text), "--out", str(model), "--metrics", str(log)]
    cli.main(["train", "--cell", "gru", *sizes, *files])
    assert "bits per character" in lines(capsys)[-1]
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert steps[-1]["step"] >= 30 and steps[-1]["bits_per_character"] < 5.0
    draw = ["sample", str(model), "--prompt", "to be", "--length", "40"]
    cli.main(draw)
    first = capsys.readouterr().out
    assert first.startswith("to be") and len(first.rstrip("\n")) <= 45
    cli.main(draw)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--text", "nowhere.txt"], "--text: got 'nowhere.txt'"),
        (["sample", "nowhere.npz"], "model: got 'nowhere.npz'"),
        (["study", "--quick", "--text", "nowhere.txt"], "--text: got 'nowhere.txt'"),
        (["train", "--text", "bad.txt"], "UTF-8"),
        (["train", "--text", "empty.txt"], "at least one character"),
        (["train", "--text", "short.txt"], "longer text"),
        (["study", "--quick", "--out", "empty.txt/report"], "--out: got"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9 " * 100)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and error.startswith("lstm-jax: ")


def test_unknown_names_list_the_known():
    command = [sys.executable, "-m", "lstm_jax", "study", "--task", "sorting"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "temporal-order" in done.stderr + done.stdout


def test_info(capsys):
    cli.main(["info"])
    out = capsys.readouterr().out
    assert f"{registry.FASTEST} on cpu" in out and "does not factor" in out
