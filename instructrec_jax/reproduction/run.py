"""Commands that run once, each in a process of its own, and are recorded."""

import hashlib
import json
import os
import pathlib
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tqdm

from instructrec_jax import locks, storage
from instructrec_jax.errors import InputError
from instructrec_jax.provenance import code

CLI = "instructrec_jax.cli.main"
# Runs `main` of a module and returns its exit status: called as execute(argv,
# stdout=PATH, log=PATH, tick=FUNCTION), it appends stdout and stderr to the two
# files and calls `tick` about once a second.
Execute = Callable[..., int]


class Run:
  """A result folder, locked, with a record of each step in OUT/steps/.

  Attributes:
    out: the folder.
    records: of the steps so far, by name.
  """

  def __init__(
    self,
    out: pathlib.Path,
    *,
    execute: Execute | None = None,
    force: bool = False,
  ):
    """`force` deletes what earlier runs recorded and made; see `__enter__`."""
    self.out = out
    self.records: dict[str, dict[str, Any]] = {}
    self._execute = execute or self._run_process
    self._steps = out / "steps"
    self._lock = locks.writing_in(out, inherit=True)
    self._force = force

  def __enter__(self) -> "Run":
    """Locks the folder, and makes what is missing in it.

    Raises:
      InputError: it holds something else, or another run, or a step that it
        left behind, is at work in it.
    """
    out = self.out
    self._lock.__enter__()
    try:
      if not self._is_ours():
        raise InputError(
          f"{out} exists and is not of `instructrec reproduce`: name another "
          "place with --out."
        )
      if self._force:
        for name in ("steps", "results", "model", "ladder"):
          shutil.rmtree(out / name, ignore_errors=True)
      self._steps.mkdir(exist_ok=True)
      (out / "logs").mkdir(exist_ok=True)
    except BaseException:
      self.__exit__(*sys.exc_info())
      raise
    return self

  def _is_ours(self) -> bool:
    """Whether the folder is empty, or its steps/ has records and no more."""
    names = {path.name for path in self.out.iterdir()} - {locks.INSIDE}
    records = [*self._steps.glob("*")] if "steps" in names else []
    try:
      for path in records:
        # A killed run leaves hidden ones in part.
        if not path.name.startswith("."):
          storage.read_json(path, {"state": str, "argv": list})
    except (InputError, OSError):
      return False
    return names <= {"steps", "logs"} or any(
      not path.name.startswith(".") for path in records
    )

  def __exit__(self, *error: Any) -> None:
    self._lock.__exit__(*error)

  def step(
    self,
    name: str,
    title: str,
    argv: Sequence[Any],
    *,
    makes: pathlib.Path,
    clear: pathlib.Path | None = None,
    reads: Sequence[pathlib.Path] = (),
    after: Sequence[str] = (),
    prints: bool = False,
    keep: bool = False,
    grows: bool = False,
  ) -> None:
    """Runs a command unless it was run with the same options and inputs.

    Args:
      name: of its record and log, such as "table_6".
      title: what it does, for people.
      argv: a module with a `main`, and its arguments.
      makes: the file whose existence says that it is done.
      clear: the file or folder to delete before it runs on other inputs.
      reads: files whose content decides what comes out.
      after: steps whose outputs it reads.
      prints: `makes` is what the command prints.
      keep: `makes` is never replaced, whoever wrote it, from whatever inputs.
      grows: `makes` exists before the command is done.

    Raises:
      InputError: the command failed; earlier steps are kept.
    """
    argv = [str(word) for word in argv]
    hashes = {str(path): storage.sha256_of(path) for path in reads}
    keys = {other: self.records[other]["key"] for other in after}
    key = step_key(argv, hashes, keys)
    path = self._steps / f"{name}.json"
    record = storage.read_json(path, dict) if path.exists() else {}
    command = _command_line(argv, makes if prints else None)
    label = f"[{len(self.records) + 1}] {name}"
    same, finished = record.get("key") == key, record.get("state") == "finished"
    found = {str(makes): storage.sha256_of(makes)} if makes.exists() else None
    kept = None
    if found and finished and (keep or (same and record["outputs"] == found)):
      kept = record
    elif found and keep and not (grows and record):
      # Made by another command, or by one that was killed right after it.
      made = {"title": title, "command": command, "key": key}
      kept = {"state": "found", **made, "outputs": found}
    if kept:
      self.records[name] = kept
      tqdm.tqdm.write(f"{label}: done", file=sys.stdout)
      return
    if clear and not same:
      # Of other inputs; of the same ones, a command resumes what it finds.
      clear.unlink() if clear.is_file() else shutil.rmtree(clear, True)
    tqdm.tqdm.write(f"{label}: {title}\n  {command}", file=sys.stdout)
    sys.stdout.flush()
    record = {
      "state": "started",
      "title": title,
      "command": command,
      "argv": argv,
      "key": key,
      "reads": hashes,
      "needs": list(after),
      "code": code(),
      "attempts": record.get("attempts", 0) * same + 1,
    }
    storage.write_json(path, record)
    record |= self._timed(name, argv, makes, prints=prints)
    record["outputs"] = {str(makes): storage.sha256_of(makes)}
    record["state"] = "finished"
    storage.write_json(path, record)
    self.records[name] = record

  def _timed(
    self, name: str, argv: Sequence[str], makes: pathlib.Path, *, prints: bool
  ) -> dict[str, Any]:
    """Runs a command; returns its start, duration and processor time."""
    log = self.out / "logs" / f"{name}.log"
    stdout = makes.with_name(f".{makes.name}.partial") if prints else log
    if prints:
      stdout.unlink(missing_ok=True)
    started, cpu_before = time.time(), _cpu_seconds()
    with tqdm.tqdm(
      desc=name,
      bar_format="{desc} [{elapsed}{postfix}]",
      disable=None,
      leave=False,
    ) as clock:
      status = self._execute(
        argv,
        stdout=stdout,
        log=log,
        tick=lambda: clock.set_postfix_str(_training_step(makes)),
      )
    if status:
      line = next(_lines_backwards(log), "it printed nothing")
      raise InputError(
        f"the step {name} failed: {line.rstrip('.')} ({log} tells more; the "
        "same command goes on from here)."
      )
    if prints:
      os.replace(stdout, makes)
    return {
      "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
      "seconds": round(time.time() - started, 1),
      "cpu_seconds": round(_cpu_seconds() - cpu_before, 1),
    }

  def _run_process(
    self,
    argv: Sequence[str],
    *,
    stdout: pathlib.Path,
    log: pathlib.Path,
    tick: Callable[[], None],
  ) -> int:
    """Neither TensorFlow nor weights outlive the process that needs them."""
    compiled = str((self.out / ".compiled").absolute())
    with log.open("ab") as errors, stdout.open("ab") as printed:
      child = subprocess.Popen(
        [sys.executable, "-m", *argv],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=errors,
        env={"JAX_COMPILATION_CACHE_DIR": compiled, **os.environ},
        # The lock is to be inherited.
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


def step_key(
  argv: Sequence[str], reads: Mapping[str, str], after: Mapping[str, str]
) -> str:
  """Returns a hash of a command, its inputs' hashes and earlier steps' keys."""
  parts = [list(argv), dict(reads), dict(after)]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _command_line(argv: Sequence[str], printed: pathlib.Path | None) -> str:
  """Returns the line that does the same by hand."""
  module, *arguments = argv
  words = ["instructrec"] if module == CLI else ["python", "-m", module]
  line = shlex.join([*words, *arguments])
  return f"{line} > {shlex.quote(str(printed))}" if printed else line


def _cpu_seconds() -> float:
  """Processor time of this process and of all children that have ended."""
  used = [
    resource.getrusage(who)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  ]
  return sum(u.ru_utime + u.ru_stime for u in used)


def _training_step(makes: pathlib.Path) -> str:
  """Returns "training step 240" where a step writes metrics.jsonl."""
  if makes.name != "metrics.jsonl" or not makes.exists():
    return ""
  for line in _lines_backwards(makes):
    try:
      return f"training step {json.loads(line)['step']:,}"
    except ValueError:
      # Half written.
      continue
  return ""


def _lines_backwards(path: pathlib.Path) -> Iterator[str]:
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  return (line.strip() for line in reversed(lines) if line.strip())
