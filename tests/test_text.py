"""Text: what is read, how it is numbered, and that streams lose and repeat nothing."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax.data import text

pytestmark = pytest.mark.sampled

any_text = st.text(max_size=60)


# Reading -------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_is(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("naïve\r\nλ🙂\n".encode())
    assert text.read(file) == text.read(str(file)) == "naïve\r\nλ🙂\n"
    assert text.read(file, max_chars=7) == "naïve\r\n"


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello\xef\xbb\xbf")
    assert text.read(tmp_path / "a.txt") == "hello\ufeff"


def folder_of_files(root):
    files = {
        "b.md": b"B",
        "a.txt": b"A",
        "sub/c": b"C",
        "sub/deeper/d.py": b"D",
        "z.txt": b"Z",
        "image.png": b"\x89PNG\0\xff",
        ".hidden.txt": b"no",
        ".git/config": b"no",
        "sub/.cache/x.txt": b"no",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_a_folder_is_read_in_path_order(tmp_path):
    folder_of_files(tmp_path)
    os.symlink(tmp_path / "missing", tmp_path / "broken-link")
    os.symlink(tmp_path / "sub", tmp_path / "again")
    assert text.read(tmp_path) == "ABCDZ"
    assert text.read(tmp_path, max_chars=3) == "ABC"


def test_a_folder_below_a_hidden_one_can_be_named(tmp_path):
    folder = tmp_path / ".hidden" / "texts"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("seen", encoding="utf-8")
    assert text.read(folder) == "seen"


def test_reading_stops_at_max_chars_before_a_bad_file(tmp_path):
    (tmp_path / "a").write_bytes(b"good")
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert text.read(tmp_path, max_chars=4) == "good"


def test_the_default_corpus():
    corpus = text.read(max_chars=300_000)
    assert len(corpus) == 300_000 and corpus == text.read(max_chars=300_000)
    assert corpus.startswith(text.read(max_chars=1000)) and "def " in corpus and "import " in corpus
    first = sorted(name for name in os.listdir(os.path.dirname(os.__file__)) if name[-3:] == ".py")
    beginning = text.read(os.path.join(os.path.dirname(os.__file__), first[0]))
    assert corpus.startswith(beginning[:300_000])
    assert len(text.read()) == text.DEFAULT_CORPUS_CHARS


def test_reading_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="path: got .*nowhere.*wanted an existing file or"):
        text.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="path: got ''"):
        text.read("")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="path: got no text in .*empty.txt.*at least one char"):
        text.read(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="path: got no text in .*; name a file"):
        text.read(tmp_path)
    with pytest.raises(ValueError, match="max_chars: got 0"):
        text.read(max_chars=0)
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="path: got no text in Python's standard library"):
        text.read()


@pytest.mark.parametrize("as_folder", [False, True])
def test_not_utf8_names_file_offset_and_remedy(tmp_path, as_folder):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    message = r"path: got byte 0xe9 at byte offset 3 of .*latin\.txt, wanted UTF-8.*; convert"
    with pytest.raises(ValueError, match=message):
        text.read(tmp_path if as_folder else tmp_path / "latin.txt")


# Vocabulary ----------------------------------------------------------------------------------


@given(any_text.filter(lambda s: s.strip("\ufffd")))
def test_encode_then_decode_is_the_text(sample):
    vocabulary = text.Vocabulary.from_text(sample)
    ids = vocabulary.encode(sample)
    assert ids.dtype == np.int32 and ids.shape == (len(sample),)
    assert vocabulary.decode(ids) == sample
    known = set(sample) - {"\ufffd"}
    assert vocabulary.chars == "".join(sorted(known)) and vocabulary.size == len(known) + 1


@given(chars=st.text(min_size=1, max_size=8).filter(lambda s: "\ufffd" not in s), other=any_text)
def test_encode_is_the_position_in_chars(chars, other):
    chars = "".join(dict.fromkeys(chars))
    vocabulary = text.Vocabulary(chars)
    expected = [chars.index(c) if c in chars else len(chars) for c in chars + other]
    assert vocabulary.encode(chars + other).tolist() == expected
    decoded = "".join(c if c in chars else "\ufffd" for c in chars + other)
    assert vocabulary.decode(np.array(expected)) == decoded


def test_rare_characters_become_one_unknown():
    vocabulary = text.Vocabulary.from_text("ccccbbbaad", max_size=3)
    assert vocabulary == text.Vocabulary("bc") and vocabulary.size == 3
    assert vocabulary.encode("abcd").tolist() == [2, 0, 1, 2]
    assert vocabulary.decode(vocabulary.encode("abcd")) == "\ufffdbc\ufffd"
    ties = text.Vocabulary.from_text("zyxx", max_size=3)
    assert ties.chars == "xy"
    assert text.Vocabulary.from_text("zyxx", max_size=99).chars == "xyz"


def test_vocabulary_is_hashable_and_handles_nothing():
    vocabulary = text.Vocabulary("ab")
    assert hash(vocabulary) == hash(text.Vocabulary("ab"))
    assert vocabulary.encode("").shape == (0,) and vocabulary.decode([]) == ""
    assert vocabulary.decode(np.array([[0, 1], [2, 0]], np.uint8)) == "ab\ufffda"


def test_vocabulary_errors():
    with pytest.raises(ValueError, match="chars: got '', wanted at least one"):
        text.Vocabulary("")
    with pytest.raises(ValueError, match="chars: got 'b' more than once"):
        text.Vocabulary("abcb")
    with pytest.raises(ValueError, match="chars: got U.FFFD"):
        text.Vocabulary("a\ufffd")
    with pytest.raises(ValueError, match="text: got 0 characters"):
        text.Vocabulary.from_text("")
    with pytest.raises(ValueError, match="max_size: got 1, wanted at least 2"):
        text.Vocabulary.from_text("abc", max_size=1)
    for ids in ([3], [-1]):
        with pytest.raises(ValueError, match=rf"ids: got {ids[0]}, wanted numbers in \[0, 3\)"):
            text.Vocabulary("ab").decode(np.array(ids))
    with pytest.raises(ValueError, match="ids: got dtype float64, wanted an integer"):
        text.Vocabulary("ab").decode(np.array([0.5]))


# Streams -------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(length=st.integers(2, 200), batch_size=st.integers(1, 6), window=st.integers(1, 12))
def test_windows_put_together_are_the_text(length, batch_size, window):
    ids = np.arange(length, dtype=np.int64)
    if length < batch_size * window + 1:
        with pytest.raises(ValueError, match=f"ids: got {length} characters, wanted at least"):
            text.streams(ids, batch_size, window)
        return
    inputs, targets = text.streams(ids, batch_size, window)
    stream_length = (length - 1) // batch_size
    count = stream_length // window
    assert inputs.shape == targets.shape == (count, window, batch_size)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous
    for b in range(batch_size):
        start, end = b * stream_length, b * stream_length + count * window
        np.testing.assert_array_equal(inputs[:, :, b].ravel(), ids[start:end])
        np.testing.assert_array_equal(targets[:, :, b].ravel(), ids[start + 1 : end + 1])


def test_streams_by_hand():
    stream = text.streams(np.arange(14), batch_size=2, window=3)
    assert stream.inputs[0].T.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert stream.inputs[1].T.tolist() == [[3, 4, 5], [9, 10, 11]]
    assert stream.targets[0].T.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert stream.targets[1].T.tolist() == [[4, 5, 6], [10, 11, 12]]


def test_stream_errors():
    message = r"ids: got 6 characters, wanted at least 7 \(batch_size=2 \* window=3 .*; pass a long"
    with pytest.raises(ValueError, match=message):
        text.streams(np.arange(6), 2, 3)
    assert text.streams(np.arange(7), 2, 3).inputs.shape == (1, 3, 2)
    with pytest.raises(ValueError, match=r"ids: got shape \(2, 3\), wanted \[N\]"):
        text.streams(np.zeros((2, 3), np.int32), 1, 1)
    with pytest.raises(ValueError, match="ids: got dtype float64"):
        text.streams(np.zeros(9), 1, 1)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        text.streams(np.arange(9), 0, 1)
    with pytest.raises(ValueError, match="window: got -1"):
        text.streams(np.arange(9), 1, -1)


@given(length=st.integers(2, 300), validation=st.floats(0.01, 0.99))
def test_split_keeps_everything_in_order(length, validation):
    ids = np.arange(length)
    held_out = int(length * validation)
    if held_out == 0:
        with pytest.raises(ValueError, match=f"ids: got {length} characters, wanted enough"):
            text.split(ids, validation)
        return
    train, rest = text.split(ids, validation)
    assert len(rest) == held_out and len(train) > 0
    np.testing.assert_array_equal(np.concatenate([train, rest]), ids)


@pytest.mark.parametrize("validation", [0.0, 1.0, -0.1, math.nan])
def test_split_fraction(validation):
    with pytest.raises(ValueError, match="validation: got .*, wanted a fraction between"):
        text.split(np.arange(100), validation)
    assert [len(part) for part in text.split(np.arange(100))] == [90, 10]


# Entropy -------------------------------------------------------------------------------------


def test_entropy_of_known_distributions():
    assert text.order0_entropy(np.zeros(5, np.int32)) == 0.0
    assert text.order0_entropy(np.arange(8)) == 3.0
    assert text.order0_entropy(np.array([0, 0, 7, 3])) == 1.5
    with pytest.raises(ValueError, match="ids: got 0 characters"):
        text.order0_entropy(np.array([], np.int32))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_entropy_is_the_loss_of_the_frequencies(ids):
    ids = np.array(ids)
    share = np.bincount(ids, minlength=6) / len(ids)
    expected = -np.mean(np.log2(share[ids]))
    assert text.order0_entropy(ids) == pytest.approx(expected, abs=1e-12)
    assert -1e-12 <= text.order0_entropy(ids) <= math.log2(len(set(ids.tolist()))) + 1e-12
