"""Checksums of a folder's files, which every load of weights or rows verifies.

checksums.txt has a line a file, `NAME<tab>BYTES<tab>CRC32 ...`, with a CRC-32
for each piece of 64 MiB, so that threads can share one large file, and at its
end the CRC-32 of these lines. A CRC-32 sees any damage within four bytes, and
all but one in four billion of other kinds; it is no signature against intent.
It is the fastest digest that Python brings: 3.1 GB/s a thread, where SHA-256
has 1.8 with the CPU's own instructions and 0.5 without.
"""

import contextlib
import os
import pathlib
import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from instructrec_jax.errors import InputError

FILE = "checksums.txt"
# In each folder that a command writes: its name, and its files; see `storage`.
RECORD = ".instructrec.json"

_PIECE_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20
_THREADS = min(8, os.cpu_count() or 1)
# Folders without checksums that were already told of.
_told: set[pathlib.Path] = set()

# By name: bytes, and the CRC-32 of each piece.
_Entries = dict[str, tuple[int, list[int]]]


def write(folder: pathlib.Path, *, skip: Iterable[str] = ()) -> None:
  """Writes checksums.txt for all files of a folder that is complete.

  Args:
    folder: to read.
    skip: names of files to leave out.
  """
  folder = pathlib.Path(folder)
  files = (path for path in folder.rglob("*") if path.is_file())
  names = {path.relative_to(folder).as_posix() for path in files}
  # The record is not written yet: `storage.staged_folder` adds it.
  _write(folder, {}, names - {FILE, RECORD, *skip})


def add(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Adds files to a folder's checksums, or renews theirs."""
  folder = pathlib.Path(folder)
  _write(folder, _read(folder) if (folder / FILE).exists() else {}, names)


def lack(folder: pathlib.Path, names: Iterable[str]) -> bool:
  """Whether a folder has checksums, but not of all of these files."""
  return (folder / FILE).exists() and not set(names) <= _read(folder).keys()


def verify(
  folder: pathlib.Path,
  *,
  remedy: str,
  skip: tuple[str, ...] = (),
  is_told: bool = True,
) -> None:
  """Raises an InputError unless all files are as they were; see `verified`."""
  with verified(folder, remedy=remedy, skip=skip, is_told=is_told):
    pass


@contextlib.contextmanager
def verified(
  folder: pathlib.Path,
  *,
  remedy: str,
  skip: tuple[str, ...] = (),
  is_told: bool = True,
) -> Iterator[None]:
  """Verifies a folder's files while the block reads them.

  Small files and all sizes are verified before the block, large files in
  threads beside it. A file that differs is what is told, whatever the block
  makes of it.

  Args:
    folder: with checksums.txt; one without is told of on stderr, once.
    remedy: what to do about a damaged file, to end its sentence.
    skip: what names begin with that are not read.
    is_told: whether to say that a folder has no checksums.

  Raises:
    InputError: naming a file that is missing, or not as it was written.
  """
  folder = pathlib.Path(folder).absolute()
  if not (folder / FILE).exists():
    if is_told and folder not in _told:
      _told.add(folder)
      print(
        f"{folder}: there is no {FILE}, as earlier versions wrote none: its "
        "files are unverified.",
        file=sys.stderr,
      )
    yield
    return
  entries = {
    name: entry
    for name, entry in _read(folder, remedy).items()
    if not name.startswith(skip)
  }
  for name, (size, _) in entries.items():
    path = folder / name
    found = path.stat().st_size if path.is_file() else None
    if found != size:
      state = "missing" if found is None else f"damaged, {found:,} bytes"
      raise InputError(
        f"{path}: the file is {state}, where {size:,} were written: {remedy}."
      )
  pool = ThreadPoolExecutor(_THREADS)
  small, large = [], []
  for name, (size, crcs) in entries.items():
    for index, crc in enumerate(crcs):
      work = pool.submit(_crc, folder / name, index * _PIECE_BYTES)
      (small if size < _BUFFER_BYTES else large).append((name, crc, work))

  def check(pieces):
    for name, crc, work in pieces:
      if work.result() != crc:
        raise InputError(
          f"{folder / name}: the file is damaged, or was changed since it was "
          f"written ({FILE} has another checksum): {remedy}."
        )

  try:
    check(small)
    try:
      yield
    except Exception:
      check(large)
      raise
    check(large)
  finally:
    pool.shutdown(cancel_futures=True)


def _write(
  folder: pathlib.Path, entries: _Entries, names: Iterable[str]
) -> None:
  with ThreadPoolExecutor(_THREADS) as pool:
    for name in names:
      size = (folder / name).stat().st_size
      starts = range(0, size, _PIECE_BYTES)
      crcs = pool.map(lambda at, name=name: _crc(folder / name, at), starts)
      entries[name] = size, list(crcs)
  lines = (
    f"{name}\t{size}\t{' '.join(f'{crc:08x}' for crc in crcs)}\n"
    for name, (size, crcs) in sorted(entries.items())
  )
  body = "".join(lines).encode()
  partial = folder / f".{FILE}.partial"
  partial.write_bytes(body + b"%08x\n" % zlib.crc32(body))
  os.replace(partial, folder / FILE)


def _crc(path: pathlib.Path, start: int) -> int:
  """Returns the CRC-32 of the piece of a file that begins at `start`."""
  crc, left = 0, _PIECE_BYTES
  buffer = memoryview(bytearray(_BUFFER_BYTES))
  with open(path, "rb", buffering=0) as file:
    file.seek(start)
    while left and (count := file.readinto(buffer)):
      crc = zlib.crc32(buffer[:count], crc)
      left -= count
  return crc


def _read(folder: pathlib.Path, remedy: str = "copy it again") -> _Entries:
  path = folder / FILE
  content = path.read_bytes()
  body, end = content[:-9], content[-9:]
  if end != b"%08x\n" % zlib.crc32(body):
    raise InputError(f"{path}: the checksums are damaged themselves: {remedy}.")
  entries = {}
  for line in body.decode().splitlines():
    name, size, crcs = line.split("\t")
    entries[name] = int(size), [int(crc, 16) for crc in crcs.split()]
  return entries
