"""Locks: an output is written by one run at a time.

A lock is a file held with flock, so that the system frees it when its owner
dies, however it dies; it holds who that is. NAME's is `.NAME.lock` beside it;
a folder that grows in place, such as a dataset's, also has `.lock` in it.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator

from instructrec_jax.errors import InputError

INSIDE = ".lock"
# How what is in a lock begins, if it is there already.
_BEGINS = b'{"process"'


@contextlib.contextmanager
def writing(
  path: pathlib.Path, *, wait: bool = False, inherit: bool = False
) -> Iterator[None]:
  """Holds the lock of a file or folder that is about to be written.

  Parents are made; those still empty in the end are removed again.

  Args:
    path: what is written; it need not exist.
    wait: until the other run ends, where that is a matter of minutes.
    inherit: a child process that outlives this one holds the lock, too.

  Raises:
    InputError: another run holds it, or a file of its name is no lock.
  """
  path = _resolved(path)
  beside = path.with_name(f".{path.name}{INSIDE}")
  with _held(beside, path, wait=wait, inherit=inherit):
    yield


@contextlib.contextmanager
def writing_in(path: pathlib.Path, *, inherit: bool = False) -> Iterator[None]:
  """Holds the lock of a folder that grows in place; see `writing`.

  The folder is made, and removed again if nothing is written.
  """
  path = _resolved(path)
  with _held(path / INSIDE, path, wait=False, inherit=inherit):
    yield


def _resolved(path: pathlib.Path) -> pathlib.Path:
  path = pathlib.Path(path)
  if path.is_symlink() and not path.exists():
    raise InputError(f"{path} is a link to nothing: name another place.")
  return path.resolve()


@contextlib.contextmanager
def made_parents(path: pathlib.Path) -> Iterator[None]:
  """Makes a path's parents, and removes those that are empty in the end."""
  missing = [p for p in path.parents if not p.exists()]
  first = next(p for p in path.parents if p.exists())
  if not first.is_dir():
    raise InputError(
      f"{first} is no folder, so nothing can be written in it: name another "
      "place."
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    yield
  finally:
    for parent in missing:
      # Not empty, or gone already.
      with contextlib.suppress(OSError):
        parent.rmdir()


@contextlib.contextmanager
def _held(
  file: pathlib.Path, path: pathlib.Path, *, wait: bool, inherit: bool
) -> Iterator[None]:
  with made_parents(file):
    lock = _acquire(file, path, wait=wait)
    try:
      os.set_inheritable(lock, inherit)
      yield
    finally:
      # While it is held, so that nobody else's is unlinked; another one is
      # there if the folder around it was replaced.
      if _is_at(lock, file):
        file.unlink()
      os.close(lock)


def _acquire(file: pathlib.Path, path: pathlib.Path, *, wait: bool) -> int:
  """Returns the descriptor of the locked file, which names this process."""
  while True:
    # Not O_NOFOLLOW alone: its error would not say that.
    if file.is_symlink() or (file.exists() and not file.is_file()):
      raise InputError(_in_the_way(file))
    lock = os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      owner = _owner(lock)
      os.close(lock)
      raise InputError(
        f"{path}: another run is writing here{owner}: wait for its end, or "
        "name another place."
      ) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        os.close(lock)
        raise
      print(
        f"{path}: this file system has no locks: do not write here twice at "
        "once.",
        file=sys.stderr,
      )
      return lock
    # The owner before may have unlinked what was opened here.
    if _is_at(lock, file):
      break
    os.close(lock)
  if not _BEGINS.startswith(os.pread(lock, len(_BEGINS), 0)):
    os.close(lock)
    raise InputError(_in_the_way(file))
  me = {
    "process": os.getpid(),
    "host": socket.gethostname(),
    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
  }
  os.truncate(lock, 0)
  os.write(lock, json.dumps(me).encode())
  return lock


def _in_the_way(file: pathlib.Path) -> str:
  return f"{file} has the name of a lock, and is none: move it away."


def _is_at(lock: int, file: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(lock), os.stat(file))
  except OSError:
    return False


def _owner(lock: int) -> str:
  try:
    owner = json.loads(os.pread(lock, 4096, 0))
    return (
      f" since {owner['since']} (process {owner['process']} on {owner['host']})"
    )
  except (ValueError, KeyError, TypeError):
    # It is just being written.
    return ""
