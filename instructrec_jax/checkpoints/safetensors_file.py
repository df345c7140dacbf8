"""The safetensors format: 8 bytes of length, a JSON header, the raw arrays.

By hand, since the package of that name saves a file from a dict of all its
arrays; here one is in memory at a time.
"""

import itertools
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from instructrec_jax.checkpoints.weights import Leaf, Shape
from instructrec_jax.errors import InputError

_DTYPES: dict[str, Any] = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  # With scales beside, of `seq2seq.int8`; others' have scales of other kinds.
  "I8": np.int8,
  # No weights, but older files of BERT have the numbers of places beside them.
  "I64": np.int64,
}
# Longer than any model's; a larger number means another file format.
_MAX_HEADER_BYTES = 100 << 20


def open_file(
  path: pathlib.Path, *, may_be_int8: bool = False
) -> dict[str, Leaf]:
  """Returns a file's arrays by name; reads only the header.

  Args:
    path: the file.
    may_be_int8: whether there may be arrays of int8.

  Raises:
    InputError: it is missing, cut short, not of this format, or two arrays
      of it share bytes.
  """
  header, start = _header(path)
  known = [code for code in _DTYPES if code != "I8" or may_be_int8]
  size = path.stat().st_size
  leaves, spans = {}, []
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    try:
      dtype = np.dtype(_DTYPES[entry["dtype"]])
      broken = entry["dtype"] not in known
      shape = tuple(entry["shape"])
      first, last = entry["data_offsets"]
      numbers = (*shape, first, last)
      broken |= any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers)
      broken = broken or last - first != math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
      broken = True
    if broken:
      raise InputError(
        f"{path}: {name} is not an array of {', '.join(known)} of the length "
        "that its shape says; fetch the file again."
      )
    leaves[name] = Leaf(shape, _reader(path, dtype, shape, start + first))
    spans.append((first, last, name))
  spans.sort()
  for (_, end, one), (first, _, other) in itertools.pairwise(spans):
    if first < end:
      raise InputError(
        f"{path}: {one} and {other} share bytes, which no writer of this "
        "format makes: the file is damaged, fetch it again."
      )
  end = start + max((last for _, last, _ in spans), default=0)
  if size != end:
    raise InputError(
      f"{path}: {size:,} bytes where its header says {end:,}: the file is cut "
      "short or damaged, fetch it again."
    )
  return leaves


def write_file(
  path: pathlib.Path,
  shapes: Mapping[str, Shape],
  dtype: str | Mapping[str, str],
  read: Callable[[str], np.ndarray],
) -> None:
  """Writes a file, array by array.

  Args:
    path: the file.
    shapes: of each array, by name, in the order to be written.
    dtype: "float32", "bfloat16" or "int8": of all, or by name.
    read: returns an array by name; it is cast to its dtype.
  """
  by_name = {np.dtype(type_).name: code for code, type_ in _DTYPES.items()}
  codes = {
    name: by_name[dtype if isinstance(dtype, str) else dtype[name]]
    for name in shapes
  }
  # transformers refuses a file that does not say this.
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, shape in shapes.items():
    itemsize = np.dtype(_DTYPES[codes[name]]).itemsize
    start, end = end, end + math.prod(shape) * itemsize
    header[name] = {
      "dtype": codes[name],
      "shape": list(shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in shapes:
      _append(file, read(name), _DTYPES[codes[name]])


def _append(file: BinaryIO, array: np.ndarray, dtype: Any) -> None:
  # Flattened first: a scalar or a transposed matrix has no contiguous last
  # axis to view as bytes.
  flat = np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(-1)
  # Not `tofile`, whose error on a full disk does not say so.
  file.write(flat.view(np.uint8).data)


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
  """Returns the header, and where the arrays begin."""
  try:
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      text = file.read(length) if 0 < length < _MAX_HEADER_BYTES else b""
  except (FileNotFoundError, IsADirectoryError):
    raise InputError(f"{path}: no such file.") from None
  try:
    header = json.loads(text)
  except (ValueError, RecursionError):
    header = None
  if not isinstance(header, dict):
    raise InputError(
      f"{path}: not a safetensors file, or one that is cut short: fetch it "
      "again (`git lfs pull` if it is a small text)."
    )
  return header, 8 + length


def _reader(
  path: pathlib.Path, dtype: np.dtype, shape: Shape, offset: int
) -> Callable[[], np.ndarray]:
  # Not a memory map, whose pages would stay resident until it is closed.
  def read() -> np.ndarray:
    count = math.prod(shape)
    return np.fromfile(path, dtype, count, offset=offset).reshape(shape)

  return read
