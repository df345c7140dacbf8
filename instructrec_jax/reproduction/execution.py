"""Runs steps: each once, in a process of its own, going on after a kill."""

import fcntl
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import tqdm

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.reproduction import provenance
from instructrec_jax.reproduction.steps import Step


class Execute(Protocol):
  """Runs a module's `main`, and calls `tick` about once a second.

  What it prints goes to `stdout`, all else to `log`. Returns its status.
  """

  def __call__(
    self,
    argv: Sequence[str],
    *,
    stdout: pathlib.Path,
    log: pathlib.Path,
    tick: Callable[[], None],
  ) -> int: ...


class Subprocesses:
  """Runs each step in a process of its own, whose memory goes back at its end.

  Neither TensorFlow nor a model's weights outlive the step that needs them.
  """

  def __init__(self, compiled: pathlib.Path):
    """Takes the folder of compiled programs, which steps share."""
    self._environment = {
      "JAX_COMPILATION_CACHE_DIR": str(compiled.absolute()),
      **os.environ,
    }

  def __call__(
    self,
    argv: Sequence[str],
    *,
    stdout: pathlib.Path,
    log: pathlib.Path,
    tick: Callable[[], None],
  ) -> int:
    """Runs one step; ends it if this process is interrupted."""
    with log.open("ab") as errors, stdout.open("ab") as printed:
      child = subprocess.Popen(
        [sys.executable, "-m", *argv],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=errors,
        env=self._environment,
        # The lock: it is held as long as anybody works in the folder.
        close_fds=False,
      )
      try:
        while True:
          try:
            return child.wait(timeout=1)
          except subprocess.TimeoutExpired:
            tick()
      finally:
        if child.poll() is None:
          child.terminate()
          child.wait()


class Runner:
  """Runs steps in order and keeps a record of each in OUT/steps/.

  Attributes:
    records: of the steps so far, by name.
  """

  def __init__(self, out: pathlib.Path, *, execute: Execute | None = None):
    """Takes the folder for itself.

    Args:
      out: where the steps write.
      execute: runs a step; `Subprocesses` if None.

    Raises:
      InputError: another run is at work in it.
    """
    self.out = out
    self.records: dict[str, dict[str, Any]] = {}
    self._execute = execute or Subprocesses(out / ".compiled")
    self._keys: dict[str, str] = {}
    (out / "steps").mkdir(parents=True, exist_ok=True)
    (out / "logs").mkdir(exist_ok=True)
    self._lock = os.open(out / ".lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(self._lock, True)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      os.close(self._lock)
      raise InputError(
        f"{out}: another run, or a step that it left behind, is at work here; "
        "wait for its end."
      ) from None

  def close(self) -> None:
    """Gives the folder back."""
    os.close(self._lock)

  def run(self, steps: Sequence[Step]) -> None:
    """Runs steps in their order, but for those whose outputs stand.

    Raises:
      InputError: a step failed; what was done stands.
    """
    done = len(self.records)
    total = done + len(steps)
    with tqdm.tqdm(
      total=total,
      initial=done,
      unit="step",
      disable=None,
      bar_format="{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
    ) as progress:
      for number, step in enumerate(steps, start=done + 1):
        progress.set_description(step.name)
        self._run(step, f"[{number}/{total}]", progress)
        progress.update()

  def _run(self, step: Step, number: str, progress: tqdm.tqdm) -> None:
    key = self._keys[step.name] = step.key(self._keys)
    path = self.out / "steps" / f"{step.name}.json"
    record = storage.read_json(path) if path.exists() else {}
    same = record.get("key") == key
    if kept := _kept(step, record, key):
      self.records[step.name] = kept
      tqdm.tqdm.write(f"{number} {step.name}: stands", file=sys.stdout)
      return
    if not same:
      _remove(step.outputs)
    tqdm.tqdm.write(
      f"{number} {step.name}: {step.title}\n  {step.command}", file=sys.stdout
    )
    sys.stdout.flush()
    record = {
      "state": "started",
      "title": step.title,
      "command": step.command,
      "argv": list(step.argv),
      "key": key,
      "reads": {str(p): storage.sha256_of(p) for p in step.reads},
      "needs": list(step.needs),
      "code": provenance.code(),
      "attempts": record.get("attempts", 0) * same + 1,
    }
    storage.write_json(path, record)
    record |= self._measured(step, progress)
    record |= {"state": "finished", "outputs": _hashes([step.proof])}
    storage.write_json(path, record)
    self.records[step.name] = record

  def _measured(self, step: Step, progress: tqdm.tqdm) -> dict[str, Any]:
    """Runs a step; returns how long it took, and its processor time."""
    log = self.out / "logs" / f"{step.name}.log"
    stdout = log
    if step.prints:
      stdout = step.proof.with_name(f".{step.proof.name}.partial")
      stdout.unlink(missing_ok=True)
    started, before = time.time(), _cpu_seconds()
    status = self._execute(
      step.argv,
      stdout=stdout,
      log=log,
      tick=lambda: progress.set_postfix_str(_how_far(step)),
    )
    progress.set_postfix_str("")
    if status:
      raise InputError(
        f"the step {step.name} failed: {_last_line(log)} ({log} tells more; "
        "the same command goes on from here)"
      )
    if step.prints:
      os.replace(stdout, step.proof)
    return {
      "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
      "seconds": round(time.time() - started, 1),
      "cpu_seconds": round(_cpu_seconds() - before, 1),
    }


def _kept(
  step: Step, record: dict[str, Any], key: str
) -> dict[str, Any] | None:
  """Returns the record of a step that need not be run, or None."""
  finished = record.get("state") == "finished"
  if step.unless and step.unless.exists():
    if finished:
      return record
    if record and step.gradual:
      return None
    # Somebody else made it.
    found = {"title": step.title, "command": step.command, "key": key}
    return {"state": "found", **found, "outputs": _hashes([step.unless])}
  stands = finished and record["key"] == key and step.proof.exists()
  if stands and record["outputs"] == _hashes([step.proof]):
    return record
  return None


def _hashes(paths: Sequence[pathlib.Path]) -> dict[str, str]:
  return {str(path): storage.sha256_of(path) for path in paths}


def _remove(paths: Sequence[pathlib.Path]) -> None:
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)


def _cpu_seconds() -> float:
  """Processor time of this process and of all children that have ended."""
  used = [
    resource.getrusage(who)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  return sum(u.ru_utime + u.ru_stime for u in used)


def _how_far(step: Step) -> str:
  """Returns ", training step 240", where a step trains."""
  if not step.metrics or not step.metrics.exists():
    return ""
  for line in _lines_backwards(step.metrics):
    try:
      return f"training step {json.loads(line)['step']:,}"
    except ValueError:
      # Half written.
      continue
  return ""


def _last_line(log: pathlib.Path) -> str:
  return next(_lines_backwards(log), "it printed nothing")


def _lines_backwards(path: pathlib.Path) -> Iterator[str]:
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  return (line.strip() for line in reversed(lines) if line.strip())
