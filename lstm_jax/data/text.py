"""Text as characters: read it, encode it, cut it into parallel streams for stateful training."""

import dataclasses
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._checks import (
    as_array,
    check_path,
    check_positive_int,
    counted,
    fail,
    is_real,
    shown,
)
from .._static import Static

__all__ = [
    "CharStream",
    "Vocabulary",
    "order0_entropy",
    "read",
    "split",
    "streams",
]
__dir__ = __all__.copy


UNKNOWN = "\N{REPLACEMENT CHARACTER}"
DEFAULT_CORPUS_CHARS = 1_000_000


def read(path: str | os.PathLike[str] | None = None, max_chars: int | None = None) -> str:
    """Read the text of a UTF-8 file, of a folder, or of Python's own source.

    A folder gives every text file below it, whatever its suffix, one after another in the order
    of their paths. Left out are files and folders whose name starts with a dot, files that hold a
    zero byte in their first 8192 bytes (binary), files that may not be read, and links to folders.
    Line ends stay as they are; a byte order mark is dropped.

    Args:
        path: a file, a folder, or None for the default corpus: the `*.py` files at the top level
            of the running Python's standard library, sorted by name. It needs no download, and
            for one Python version it is always the same text.
        max_chars: stop after this many characters. None: the whole text, or 1,000,000 characters
            of the default corpus.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the file or folder holds no text, or a file in it is not UTF-8.
    """
    if max_chars is not None:
        check_positive_int("max_chars", max_chars)
    if path is None:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        max_chars = DEFAULT_CORPUS_CHARS if max_chars is None else max_chars
    else:
        check_path("path", path, "the name of a file or folder")
        files = _files(os.fspath(path))
    text = _concatenate(files, max_chars)
    if not text:
        seen = "no text in " + ("Python's standard library" if path is None else repr(str(path)))
        remedy = "name a file that has some, or a folder with such files"
        raise fail("path", seen, "at least one character", remedy)
    return text


def _files(path: str) -> list[Path]:
    """The files to read at `path`, in reading order."""
    if not os.path.exists(path):
        remedy = "check the spelling, or pass path=None for Python's own source"
        raise fail("path", repr(path), "an existing file or folder", remedy, FileNotFoundError)
    if not os.path.isdir(path):
        return [Path(path)]
    found = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if _is_text(file))


def _is_text(file: Path) -> bool:
    """True for a readable regular file without a zero byte in its first 8192 bytes."""
    if not file.is_file() or not os.access(file, os.R_OK):
        return False
    with file.open("rb") as stream:
        return b"\0" not in stream.read(8192)


def _concatenate(files: Iterable[Path], max_chars: int | None) -> str:
    """Join the texts of `files`, up to `max_chars` characters."""
    parts, left = [], max_chars
    for file in files:
        part = _decode(file)[:left]
        parts.append(part)
        left = None if left is None else left - len(part)
        if left == 0:
            break
    return "".join(parts)


def _decode(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        seen = f"byte 0x{error.object[error.start]:02x} at byte offset {error.start} of {file}"
        remedy = "convert the file to UTF-8 or leave it out"
        raise fail("path", seen, "UTF-8 text", remedy) from None


@dataclasses.dataclass(frozen=True)
class Vocabulary(Static):
    """Numbering of characters: `chars[k]` has number k, any other character is unknown.

    The last number, `size - 1 == len(chars)`, stands for every unknown character, so that any text
    can be encoded; it decodes to U+FFFD.

    Raises:
        ValueError: chars is empty, repeats a character, or holds U+FFFD.
    """

    chars: str

    def __post_init__(self) -> None:
        _check_text("chars", self.chars)
        if not self.chars:
            raise fail("chars", "''", "at least one character", "pass the alphabet as one string")
        repeated = sorted(char for char, count in Counter(self.chars).items() if count > 1)
        if repeated:
            seen = f"{''.join(repeated)!r} more than once"
            raise fail("chars", seen, "each character once", "pass ''.join(sorted(set(chars)))")
        if UNKNOWN in self.chars:
            wanted = "characters other than U+FFFD, which stands for unknown"
            raise fail("chars", "U+FFFD", wanted, "leave it out: it is always there")

    @classmethod
    def from_text(cls, text: str, max_size: int | None = None) -> "Vocabulary":
        """Build the vocabulary of a text: its characters in code point order.

        Args:
            text: any text with at least one character.
            max_size: keep only the `max_size - 1` commonest (ties: the smaller code point); the
                rest become unknown. None keeps all.
        """
        _check_text("text", text)
        counts = Counter(text)
        counts.pop(UNKNOWN, None)
        if not counts:
            seen, wanted = counted(len(text), "character"), "some character other than U+FFFD"
            raise fail("text", seen, wanted, "pass the text that is to be encoded")
        kept = sorted(counts, key=lambda char: (-counts[char], char))
        if max_size is not None:
            check_positive_int("max_size", max_size)
            if max_size < 2:
                wanted = "at least 2 (one character and the unknown symbol)"
                raise fail("max_size", max_size, wanted, "pass max_size>=2")
            kept = kept[: max_size - 1]
        return cls("".join(sorted(kept)))

    @property
    def size(self) -> int:
        """The number of symbols, the unknown one included."""
        return len(self.chars) + 1

    def encode(self, text: str) -> np.ndarray:
        """Encode a text as int32 numbers [len(text)]."""
        _check_text("text", text)
        known, points = _code_points(self.chars), _code_points(text)
        order = np.argsort(known)
        rank = np.minimum(np.searchsorted(known[order], points), len(known) - 1)
        ids = order[rank]
        return np.where(known[ids] == points, ids, len(known)).astype(np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Decode numbers [N] to a text, with U+FFFD for the unknown symbol.

        Raises:
            ValueError: ids are not integers in [0, size).
        """
        ids = np.asarray(as_array("ids", ids)).reshape(-1)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise fail("ids", f"dtype {ids.dtype}", "an integer dtype", "pass what encode returned")
        outside = ids[(ids < 0) | (ids >= self.size)]
        if outside.size:
            wanted = f"numbers in [0, {self.size})"
            raise fail("ids", int(outside[0]), wanted, "use the vocabulary that encoded the text")
        points = _code_points(self.chars + UNKNOWN)[ids.astype(np.int64)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")


def _code_points(text: str) -> np.ndarray:
    """The code points of `text`, [len(text)]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class CharStream(NamedTuple):
    """B streams of text, cut into N windows; window n continues window n - 1.

    Keep the carry from window to window to train on whole streams (truncated BPTT).

    Attributes:
        inputs: [N, window, B] int32; `inputs[n]` is [T, B].
        targets: [N, window, B] int32, the character after each input, across windows too.
    """

    inputs: np.ndarray
    targets: np.ndarray


def streams(ids: ArrayLike, batch_size: int, window: int) -> CharStream:
    """Cut ids into `batch_size` contiguous streams, and these into windows.

    With S = (len(ids) - 1) // B and N = S // window,

        inputs[n, t, b]  = ids[b S + n window + t]
        targets[n, t, b] = ids[b S + n window + t + 1]

    The S - N window characters left at the end of each stream are dropped.

    Raises:
        ValueError: ids are not [N] integers, or fewer than `batch_size * window + 1`.
    """
    ids = _check_ids(ids)
    check_positive_int("batch_size", batch_size)
    check_positive_int("window", window)
    stream_length = (len(ids) - 1) // batch_size
    count = stream_length // window
    if count < 1:
        wanted = f"at least {batch_size * window + 1} (batch_size={batch_size} * window={window}"
        remedy = "pass a longer text, or a smaller batch_size or window"
        seen = counted(len(ids), "character")
        raise fail("ids", seen, f"{wanted} + 1 for one window)", remedy)

    def cut(shift: int) -> np.ndarray:
        rows = ids[shift : shift + batch_size * stream_length].reshape(batch_size, stream_length)
        windows = rows[:, : count * window].reshape(batch_size, count, window)
        return np.ascontiguousarray(windows.transpose(1, 2, 0), dtype=np.int32)

    return CharStream(inputs=cut(0), targets=cut(1))


def split(ids: ArrayLike, validation: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Split ids into (train, validation); the last share `validation`, rounded down, is held out.

    Both are contiguous, so no window of one overlaps the other.

    Raises:
        ValueError: validation is not in (0, 1), or leaves one of the parts empty.
    """
    ids = _check_ids(ids)
    if not is_real(validation) or not 0.0 < validation < 1.0:
        seen, wanted = shown(validation), "a fraction between 0 and 1"
        raise fail("validation", seen, wanted, "pass validation=0.1")
    held_out = int(len(ids) * validation)
    if not 0 < held_out < len(ids):
        wanted = f"enough for both parts at validation={validation}"
        raise fail("ids", counted(len(ids), "character"), wanted, "pass a longer text")
    return ids[: len(ids) - held_out], ids[len(ids) - held_out :]


def order0_entropy(ids: ArrayLike) -> float:
    """Entropy of single characters, -sum_k p_k log2(p_k) with p_k the share of symbol k, in bits.

    This is the least bits per character on `ids` of a model that ignores all context.
    """
    ids = _check_ids(ids)
    if not len(ids):
        raise fail("ids", "0 characters", "at least one", "pass a longer text")
    counts = np.unique(ids, return_counts=True)[1]
    p = counts / len(ids)
    return float(np.sum(p * np.log2(len(ids) / counts)))


def _check_ids(ids: ArrayLike) -> np.ndarray:
    """Convert `ids` to an array; raise unless it is [N] integers of at least 0."""
    ids = np.asarray(as_array("ids", ids))
    if ids.ndim != 1:
        raise fail("ids", f"shape {ids.shape}", "[N], one row", "pass what encode returned")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise fail("ids", f"dtype {ids.dtype}", "an integer dtype", "pass what encode returned")
    if ids.size and ids.min() < 0:
        wanted = "numbers of at least 0"
        raise fail("ids", int(ids.min()), wanted, "pass what encode returned")
    return ids


def _check_text(argument: str, text: Any) -> None:
    if not isinstance(text, str):
        raise fail(argument, shown(text), "a text", "pass a string")
