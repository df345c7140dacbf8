"""Programs that XLA has compiled, kept between runs in a folder of the user's.

jax writes and reads them; compiling is most of what a command takes to start.
What jax does not do is done here: entries that are damaged, or were not written
to the end, are removed before it reads them, and the oldest where there are too
many. JAX_ENABLE_COMPILATION_CACHE=false keeps and reads none,
JAX_COMPILATION_CACHE_DIR names another folder, which is left to jax.
"""

import atexit
import contextlib
import json
import os
import pathlib
import platform
import sys
import zlib

_RECORD = "entries.json"
_MOST_BYTES = 2 << 30
# Shorter ones are sooner compiled than read.
_SECONDS = "0.1"


def keep() -> None:
  """Has jax keep compiled programs; to be called before it is imported.

  Does nothing where the folder can't be written.
  """
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _SECONDS)
  named = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
  if any(name in os.environ for name in named) or "jax" in sys.modules:
    return
  try:
    path = folder()
    # They are run: nobody else may write them.
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid() or not os.access(path, os.W_OK):
      return
    _tidy_up(path)
  except (OSError, RuntimeError):
    return
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path)
  atexit.register(_record, path, os.getpid())


def folder() -> pathlib.Path:
  """Returns where they are kept: apart for each kind of processor."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  caches = pathlib.Path(base)
  if not caches.is_absolute():
    caches = pathlib.Path.home() / ".cache"
  kind = platform.machine() + platform.processor()
  with contextlib.suppress(OSError, StopIteration):
    lines = open("/proc/cpuinfo", encoding="utf-8")
    with lines:
      kind += next(x for x in lines if x.lower().startswith(("flags", "feat")))
  name = f"{platform.machine()}-{zlib.crc32(kind.encode()):08x}"
  return caches / "instructrec" / "compiled" / name


def _entries(path: pathlib.Path) -> list[pathlib.Path]:
  return [entry for entry in path.iterdir() if entry.name.endswith("-cache")]


def _tidy_up(path: pathlib.Path) -> None:
  """Removes entries that are not as recorded, and the oldest of too many."""
  recorded = _recorded(path)
  kept = 0
  by_age = [(entry.stat().st_mtime, entry) for entry in _entries(path)]
  for _, entry in sorted(by_age, reverse=True):
    kept += entry.stat().st_size
    if recorded.get(entry.name) != _checksum(entry) or kept > _MOST_BYTES:
      entry.unlink(missing_ok=True)


def _record(path: pathlib.Path, process: int) -> None:
  """Writes the checksums of what this run has written or read."""
  # A fork has not compiled what it inherits.
  if os.getpid() != process:
    return
  with contextlib.suppress(OSError):
    earlier = _recorded(path)
    recorded = {
      entry.name: earlier.get(entry.name) or _checksum(entry)
      for entry in _entries(path)
    }
    partial = path / f"{_RECORD}.{process}"
    partial.write_text(json.dumps(recorded), encoding="utf-8")
    partial.replace(path / _RECORD)


def _recorded(path: pathlib.Path) -> dict[str, int]:
  try:
    found = json.loads((path / _RECORD).read_bytes())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _checksum(entry: pathlib.Path) -> int:
  return zlib.crc32(entry.read_bytes())
