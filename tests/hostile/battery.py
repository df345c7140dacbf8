"""Bad inputs, pairs of runs and kills, over every command.

  python tests/hostile/battery.py bad [--short] [--kind paths] [--only TEXT]
  python tests/hostile/battery.py pairs [--only train] [--times 20]
  python tests/hostile/battery.py kills [--only build] [--times 30]

A small world (`cases.WORLD`) is made once in --folder. Every case runs in a
copy of it, in a process forked from this one, which has imported the heavy
packages: a second rather than ten. `bad` expects status 2, one sentence that
names the option or the file, and nothing written anywhere in the copy, its
home or its folder of temporary files. `pairs` starts a command twice at once;
`kills` ends it at every rename and removal, and at random moments, and runs it
again. Both compare what is there in the end with what one undisturbed run
makes.

Nothing outside --folder is written to, ever: a command that --force leads
astray finds only copies.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.pop("XLA_FLAGS", None)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

import cases  # noqa: E402

LIMIT = 20  # seconds of work that a refusal may take
PATIENCE = 120  # seconds of waiting, on a machine that others use too
MEMORY = 6 << 30  # bytes of address space that a command may add
NOBODY = 65534
HEAVY = (
  "tensorflow",
  "tensorflow_datasets",
  "seqio",
  "gin",
  "jax",
  "optax",
  "orbax.checkpoint",
  "pyarrow.parquet",
  "sentencepiece",
  "uvicorn",
  "instructrec_jax.seqio_bridge.pack",
  "instructrec_jax.training.loop",
  "instructrec_jax.evaluation.evaluate",
  "instructrec_jax.serving.app",
)
# What no sentence for a user has in it.
_NO_SENTENCE = re.compile(
  r"Traceback|<class|object at 0x|\[Errno|None of type|"
  + re.escape(str(ROOT / "instructrec_jax"))
)

State = dict[str, tuple]


def state_of(folder: pathlib.Path) -> State:
  """Returns what is in a folder: kind, mode, size, time and hash of each."""
  found: State = {}
  for path in (folder, *_walk(folder)):
    if path.name.startswith(("__autograph_generated_file", "torchinductor_")):
      continue  # TensorFlow's, removed at a true exit, and Torch's
    info = path.lstat()
    kind = info.st_mode >> 12
    what: tuple = (info.st_mode,)
    if kind == 0o10:
      what += (info.st_size, info.st_mtime_ns, _hash(path))
    elif kind == 0o12:
      what += (os.readlink(path),)
    found[os.path.relpath(path, folder)] = what
  return found


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for parent, folders, files in os.walk(folder):
    for name in folders + files:
      yield pathlib.Path(parent, name)


def _hash(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def difference(before: State, after: State) -> list[str]:
  """Returns the paths that are new, gone or changed, marked so."""
  return [
    ("+" if path not in before else "-" if path not in after else "!") + path
    for path in sorted(before.keys() | after.keys())
    if before.get(path) != after.get(path)
  ]


class Place:
  """A copy of the world with a home and a folder of temporary files."""

  def __init__(self, folder: pathlib.Path, world: pathlib.Path):
    self.folder = folder
    self.world = world
    self.work = folder / "parent" / "w"

  def reset(self) -> None:
    """Makes the copy anew."""
    self.unmount()
    if self.folder.exists():
      subprocess.run(["chmod", "-R", "u+rwX", self.folder], check=True)
    shutil.rmtree(self.folder, ignore_errors=True)
    for name in ("home", "tmp"):
      (self.folder / name).mkdir(parents=True)
    (self.folder / "home" / "letters.txt").write_text("dear all\n")
    (self.folder / "parent").mkdir()
    (self.folder / "parent" / "thesis.txt").write_text("chapter one\n")
    subprocess.run(["cp", "-a", self.world, self.work], check=True)

  def unmount(self) -> None:
    """Takes away what a case has mounted."""
    if os.path.ismount(self.work / "disk"):
      subprocess.run(["umount", self.work / "disk"], check=True)

  def state(self) -> State:
    return state_of(self.folder)


class Run:
  """A command in a forked process."""

  def __init__(
    self,
    place: Place,
    argv: list[str],
    inside: Callable[[], None] = lambda: None,
  ):
    self.argv = argv
    self.place = place
    self._out = tempfile.TemporaryFile()
    self._err = tempfile.TemporaryFile()
    self.started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    self.pid = os.fork()
    if not self.pid:
      os._exit(_status(functools.partial(self._child, inside)))

  def _child(self, inside: Callable[[], None]) -> int:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(self._out.fileno(), 1)
    os.dup2(self._err.fileno(), 2)
    os.chdir(self.place.work)
    os.environ.update(
      HOME=str(self.place.folder / "home"),
      TMPDIR=str(self.place.folder / "tmp"),
      OPENAI_API_KEY="sk-none",
      MPLCONFIGDIR=str(self.place.folder.parent / "matplotlib"),
    )
    tempfile.tempdir = None
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = size * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if self.argv[0] in ("quickstart", "reproduce"):
      _fork_commands()
    inside()
    return _call(self.argv)

  def poll(self) -> bool:
    """Says whether it has ended."""
    pid, status = os.waitpid(self.pid, os.WNOHANG)
    if pid:
      self._end(os.waitstatus_to_exitcode(status))
    return bool(pid)

  def kill(self) -> None:
    """Ends it and its children as the kernel would."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.pid, signal.SIGKILL)
    # What a lock held at the fork stops has no group of its own yet.
    os.kill(self.pid, signal.SIGKILL)
    os.waitpid(self.pid, 0)
    self._end(-signal.SIGKILL)

  def wait(self, limit: float = PATIENCE, work: float = LIMIT) -> "Run":
    """Waits until it ends, and kills it after so many seconds or such work."""
    while not self.poll():
      waited = time.monotonic() - self.started
      if waited > limit or (waited > work and self._worked() > work):
        self.kill()
        self.err += f"\n(killed after {waited:.0f} s)"
        break
      time.sleep(0.005)
    return self

  def _worked(self) -> float:
    """Returns the seconds of a processor that it has had."""
    text = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

  def _end(self, status: int) -> None:
    self.status = status
    self.seconds = time.monotonic() - self.started
    # Children that outlive it are faults; they must not live on here.
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(self.pid, signal.SIGKILL)
    texts = []
    for file in (self._out, self._err):
      file.seek(0)
      texts.append(file.read().decode(errors="replace"))
      file.close()
    self.out, self.err = texts


class Forked:
  """Stands in for `subprocess.Popen` of our own commands, as a fork.

  A step of `reproduce` and the server of `quickstart` would import for ten
  seconds. They are forked by a process that was itself forked before the
  command began, and so has no threads: `asked` is its socket.
  """

  asked: socket.socket

  def __init__(self, command, *, env=None, stderr=2, text=False, **others):
    assert command[:2] == [sys.executable, "-m"], command
    self._end, end = os.pipe()
    stdout = others["stdout"]
    self.stdout = None
    if stdout == subprocess.PIPE:
      read, stdout = os.pipe()
      self.stdout = open(read, "r" if text else "rb")
    files = [f if isinstance(f, int) else f.fileno() for f in (stdout, stderr)]
    words = json.dumps([command[2:], env or dict(os.environ)])
    socket.send_fds(self.asked, [words.encode()], [*files, end])
    os.close(end)
    if self.stdout:
      os.close(stdout)
    self.pid = int.from_bytes(os.read(self._end, 4), "little")
    self._status: int | None = None

  def wait(self, timeout: float | None = None) -> int:
    """Returns its exit status; raises TimeoutExpired."""
    if self._status is None:
      if not select.select([self._end], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired("", timeout or 0)
      said = os.read(self._end, 4)
      self._status = int.from_bytes(said, "little") if said else -1
    return self._status

  def poll(self) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      return self.wait(0)

  def terminate(self) -> None:
    os.kill(self.pid, signal.SIGTERM)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self.stdout:
      self.stdout.close()
    self.wait()


def _fork_commands() -> None:
  """Makes our own commands that this process starts forks of it as it is."""
  Forked.asked, asked = socket.socketpair(type=socket.SOCK_SEQPACKET)
  if os.fork():
    asked.close()
    fake = types.SimpleNamespace(**vars(subprocess) | {"Popen": Forked})
    for name in ("cli.quickstart", "reproduction.run"):
      module: Any = importlib.import_module(f"instructrec_jax.{name}")
      module.subprocess = fake
    return
  Forked.asked.close()
  while True:
    words, files, *_ = socket.recv_fds(asked, 1 << 20, 3)
    if not words:
      os._exit(0)
    if not os.fork():
      status = _status(functools.partial(_command, words, *files))
      os.write(files[2], status.to_bytes(4, "little"))
      os._exit(status)
    for file in files:
      os.close(file)


def _command(words: bytes, out: int, err: int, end: int) -> int:
  os.dup2(out, 1)
  os.dup2(err, 2)
  os.write(end, os.getpid().to_bytes(4, "little"))
  (name, *argv), env = json.loads(words)
  os.environ.update(env)
  return importlib.import_module(name).main(argv) or 0


def _status(run: Callable[[], int]) -> int:
  """Returns the exit status of a process that runs this alone."""
  try:
    return run()
  except SystemExit as error:
    return error.code if isinstance(error.code, int) else 1
  except BaseException:
    traceback.print_exc()
    return 1
  finally:
    with contextlib.suppress(BaseException):
      sys.stdout.flush()
      sys.stderr.flush()


def _call(argv: list[str]) -> int:
  """Runs the command, or Python code that must raise an InputError."""
  from instructrec_jax.cli.main import main
  from instructrec_jax.errors import InputError

  if argv[:1] != ["python"]:
    return main(argv)
  try:
    exec(argv[1], {})
  except InputError as error:
    print(f"python: {error}", file=sys.stderr)
    return 2
  return 0


def faults_of(run: Run, case: cases.Case, changed: list[str]) -> list[str]:
  """Returns what is wrong with a refusal, or with what must be told."""
  said = run.err.strip()
  lines = said.splitlines()
  found = []
  names = case.names
  if case.told:
    if run.status or case.told not in run.out + said:
      found.append(f"status {run.status}, and should say: {case.told}")
  elif run.status == 0:
    found.append("taken")
  elif "(killed after" in said:
    found.append("hangs" if not run.out.startswith("serving") else "serves")
  elif run.status != 2:
    found.append(f"status {run.status}")
  if run.status == 2:
    if len(lines) != 1:
      found.append(f"{len(lines)} lines")
    if not said.endswith((".", "?")):
      found.append("no full stop")
    if len(said) > 500:
      found.append(f"{len(said)} characters")
    if names and not any(each in said for each in names.split("|")):
      found.append(f"does not name {names}")
  if match := _NO_SENTENCE.search(said):
    found.append(match.group().replace(str(ROOT), "its own path "))
  if changed:
    found.append(f"writes {' '.join(changed[:3])}")
  return found


def run_bad(place: Place, case: cases.Case) -> tuple[Run, list[str]]:
  """Runs one case and returns its faults."""
  home = os.getcwd()
  os.chdir(place.work)
  try:
    inside = case.prepare(place.work) if case.prepare else None
  finally:
    os.chdir(home)
  before = place.state()
  words = [w.replace("HOME", str(place.folder / "home")) for w in case.argv]
  run = Run(place, words, inside or (lambda: None)).wait()
  changed = difference(before, place.state())
  faults = faults_of(run, case, [] if case.may_leave else changed)
  if changed or case.prepare:
    place.reset()
  return run, faults


def bad(place: Place, options: argparse.Namespace) -> int:
  """Runs the bad inputs, prints their table, returns the exit status."""
  chosen = cases.all_cases()
  if options.short:
    chosen = _short(chosen)
  chosen = [
    case
    for case in chosen
    if options.kind in ("", case.kind)
    and options.only in f"{case.kind}: {case}"
  ][:: options.every]
  place.reset()
  counts: dict[str, collections.Counter] = {}
  for case in chosen:
    run, faults = run_bad(place, case)
    count = counts.setdefault(case.kind, collections.Counter())
    count["cases"] += 1
    count["failed"] += bool(faults)
    said = run.err.strip().splitlines() or ["(silent)"]
    told = said[0] if run.status == 2 else said[-1]
    if faults or not options.quiet:
      print(
        f"{'FAIL ' if faults else 'ok   '}{case.kind}: {case}\n"
        f"     {run.status}, {run.seconds:.1f} s, {told[:300]}",
        flush=True,
      )
    if faults:
      print(f"     -> {'; '.join(faults)}", flush=True)
  print(f"\n{'kind':<16}{'cases':>6}{'failed':>8}")
  total = sum(counts.values(), collections.Counter())
  for kind, count in [*counts.items(), ("all", total)]:
    print(f"{kind:<16}{count['cases']:>6}{count['failed']:>8}")
  return int(total["failed"] > 0)


def _short(chosen: list[cases.Case], size: int = 48) -> list[cases.Case]:
  """Draws the same cases each time, as many of each kind as there are."""
  draw = random.Random(18)
  by_kind: dict[str, list[cases.Case]] = {}
  for case in chosen:
    by_kind.setdefault(case.kind, []).append(case)
  for group in by_kind.values():
    draw.shuffle(group)
  found = []
  while len(found) < size and any(by_kind.values()):
    found += [group.pop() for group in by_kind.values() if group]
  return found[:size]


def _contents(folder: pathlib.Path) -> dict[str, str]:
  """Returns the hash of each file of a folder; links and folders by kind."""
  found = {}
  for path in _walk(folder):
    name = str(path.relative_to(folder))
    if re.search(r"^tmp/|ocdbt\.process|/d/[0-9a-f]{32}$", name):
      continue  # names drawn at random
    name = re.sub(r"tfevents\.\d+.*", "tfevents", name)
    is_file = path.is_file() and not path.is_symlink()
    found[name] = _hash(path) if is_file else "other"
  return found


# Files that tell how long something took: two runs may round alike.
_TIMED = re.compile(r"/new/.*(report\.(html|md)$|results\.md$|/logs/)").search


class Reference:
  """What an undisturbed run of a command makes; what varies is only listed."""

  def __init__(self, place: Place, task: cases.Task):
    self.place, self.task = place, task
    made, self.seconds = [], 0.0
    for _ in range(2):
      self.reset()
      run = self.start().wait(600, 600)
      self.seconds = run.seconds
      beside = self.start_beside()
      for each in (run, beside and beside.wait(600, 600)):
        if each and each.status:
          raise SystemExit(f"{shlex.join(each.argv)} failed: {each.err}")
      made.append(self.result())
    self.made = {
      name: "varies" if what != made[1].get(name) or _TIMED(name) else what
      for name, what in made[0].items()
    }
    vary = sorted(n for n, what in self.made.items() if what == "varies")
    print(f"{task.argv[:60]}: {self.seconds:.0f} s; vary: {vary}", flush=True)

  def reset(self) -> None:
    """Makes the copy anew, with what is there before the command."""
    self.place.reset()
    if self.task.before:
      Run(self.place, shlex.split(self.task.before)).wait(300, 300)

  def start(self, inside: Callable[[], None] = lambda: None) -> Run:
    return Run(self.place, shlex.split(self.task.argv), inside)

  def start_beside(self) -> Run | None:
    beside = self.task.beside
    return Run(self.place, shlex.split(beside)) if beside else None

  def result(self) -> dict[str, str]:
    """Returns what is there now, with what `then` makes of it."""
    if self.task.then:
      Run(self.place, shlex.split(self.task.then)).wait(300, 300)
    return _contents(self.place.folder)

  def faults(self) -> list[str]:
    """Returns how what is there differs from what should be."""
    now = {
      name: "varies" if self.made.get(name) == "varies" else what
      for name, what in self.result().items()
    }
    differ = {n: (w,) for n, w in now.items()}
    wanted = {n: (w,) for n, w in self.made.items()}
    return difference(wanted, differ)


# Not since when: its owner may not have written it yet.
_ELSEWHERE = "another run is writing here"


def pairs(place: Place, options: argparse.Namespace) -> int:
  """Starts each writing command twice at once."""
  failed = 0
  draw = random.Random(options.seed)
  for task in cases.TASKS:
    if options.only not in task.argv:
      continue
    reference = Reference(place, task)
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(options.times):
      reference.reset()
      first = reference.start()
      time.sleep(draw.choice((0, 0, draw.random() * reference.seconds)))
      second = reference.start_beside() or reference.start()
      for run in (first, second):
        run.wait(600, 600)
      statuses = sorted((first.status, second.status))
      refusals = [r.err.strip() for r in (first, second) if r.status]
      faults = reference.faults()
      both = [0, 0]
      one = both if task.beside else [0, 2]
      if statuses not in ([both, one] if task.may_repeat else [one]):
        faults.append(f"statuses {statuses}")
      for said in refusals:
        after = "exists already" in said or task.refusal in said
        if len(said.splitlines()) != 1 or not (_ELSEWHERE in said or after):
          faults.append(f"says {said[-300:]!r}")
      seen[f"{statuses}, {len(faults) or 'no'} faults"] += 1
      if not options.quiet:
        print(f"  {seen.total()}: {statuses}", flush=True)
      if faults:
        failed += 1
        print(f"  {statuses} {' '.join(faults[:6])}", flush=True)
    print(f"{task.argv[:60]:<60} {dict(seen)}", flush=True)
  return int(failed > 0)


_STEPS = ("replace", "rename", "unlink", "remove", "rmdir")


def _die_at(n: int, *, after: bool) -> Callable[[], None]:
  """Returns what makes the process end at its n-th rename or removal."""

  def inside() -> None:
    left = [n]
    for name in _STEPS:
      real = getattr(os, name)

      def step(*args, real=real, **kwargs):
        left[0] -= 1
        if left[0] == 0 and not after:
          os._exit(137)
        found = real(*args, **kwargs)
        if left[0] == 0:
          os._exit(137)
        return found

      setattr(os, name, step)

  return inside


def kills(place: Place, options: argparse.Namespace) -> int:
  """Kills each writing command, and runs it again."""
  failed = 0
  draw = random.Random(options.seed)
  for task in cases.TASKS:
    if options.only not in task.argv:
      continue
    reference = Reference(place, task)
    count = [0, 0]
    n = 1 - options.every
    steps = True
    while steps and n < options.steps:
      n += options.every
      for after in (False, True):
        reference.reset()
        run = reference.start(_die_at(n, after=after)).wait(600, 600)
        steps = run.status == 137
        if steps:
          count[0] += 1
          failed += _again(reference, f"{'after' if after else 'at'} step {n}")
    for _ in range(options.times):
      reference.reset()
      moment = draw.random() * reference.seconds
      run = reference.start()
      while not run.poll():
        if time.monotonic() - run.started > moment:
          run.kill()
          break
        time.sleep(0.002)
      count[1] += 1
      failed += _again(reference, f"after {moment:.2f} s")
      if not options.quiet:
        print(f"  {count[1]}: killed after {moment:.2f} s", flush=True)
    print(
      f"{task.argv[:60]:<60} {count[0]} at steps, {count[1]} at random",
      flush=True,
    )
  print(f"{failed} failed")
  return int(failed > 0)


def _again(reference: Reference, when: str) -> int:
  faults = []
  beside = reference.start_beside()
  if beside and beside.wait(600, 600).status:
    faults.append(
      f"beside: status {beside.status}: {beside.err.strip()[-300:]}"
    )
  run = reference.start().wait(600, 600)
  is_done = "exists already" in run.err or (
    reference.task.refusal in run.err and run.status == 2
  )
  if run.status and not is_done:
    faults.append(f"status {run.status}: {run.err.strip()[-300:]}")
  faults += reference.faults()
  if faults:
    print(f"  killed {when}: {' '.join(faults[:6])}", flush=True)
  return int(bool(faults))


def _shorten() -> None:
  """Makes files of few requests ones of several chunks, and work short."""
  from instructrec_jax.cli import quickstart
  from instructrec_jax.evaluation import metrics
  from instructrec_jax.generation.stream import generate_file
  from instructrec_jax.scoring.stream import score_file

  for function, size in ((score_file, 64), (generate_file, 2)):
    defaults = function.__kwdefaults__
    assert defaults
    defaults["chunk"] = size
  counts = metrics.bootstrap_counts
  metrics.bootstrap_counts = lambda users, *, seed, resamples=0: counts(
    users, seed=seed, resamples=50
  )
  for name in ("VALIDATION_USERS", "WRITTEN_REQUESTS", "LOOKED_THROUGH"):
    setattr(quickstart, name, 8)
  quickstart.SCENARIOS = quickstart.SCENARIOS[:1]
  quickstart.WRITING = quickstart.WRITING[:2]


def make_world(folder: pathlib.Path, *, anew: bool) -> pathlib.Path:
  """Makes the world of all cases, or finds it made."""
  world = folder / "world"
  if (world / ".whole").exists() and not anew:
    return world
  shutil.rmtree(world, ignore_errors=True)
  world.mkdir(parents=True)
  cases.write_files(world)
  place = Place(folder / "making", world)
  place.reset()
  for line in cases.WORLD:
    run = Run(place, shlex.split(line)).wait(600, 600)
    if run.status:
      raise SystemExit(f"{line}: {run.err}")
  place.work.joinpath(".whole").touch()
  shutil.rmtree(world)
  place.work.rename(world)
  shutil.rmtree(place.folder)
  return world


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("what", choices=("bad", "pairs", "kills"))
  parser.add_argument("--folder", type=pathlib.Path)
  parser.add_argument("--anew", action="store_true", help="make the world")
  parser.add_argument("--kind", default="")
  parser.add_argument("--only", default="")
  parser.add_argument("--short", action="store_true")
  parser.add_argument(
    "--every", type=int, default=1, help="each n-th case or step"
  )
  parser.add_argument("--quiet", action="store_true", help="failures alone")
  parser.add_argument("--times", type=int, default=20)
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  folder = options.folder or pathlib.Path(tempfile.gettempdir(), "battery")
  # What a program computes is not what is tried here.
  os.environ |= {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_COMPILATION_CACHE_DIR": str(folder.resolve() / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  for module in HEAVY:
    importlib.import_module(module)
  _shorten()
  world = make_world(folder.resolve(), anew=options.anew)
  place = Place(folder.resolve() / f"place{os.getpid()}", world)
  try:
    return globals()[options.what](place, options)
  finally:
    place.unmount()
    shutil.rmtree(place.folder, ignore_errors=True)


if __name__ == "__main__":
  sys.exit(main())
