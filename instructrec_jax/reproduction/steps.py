"""What a step is: one command, what it reads, and what it writes."""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from collections.abc import Mapping

from instructrec_jax import storage

CLI = "instructrec_jax.cli.main"


@dataclasses.dataclass(frozen=True)
class Step:
  """A command of the reproduction.

  Attributes:
    name: of its record and log, such as "table_6".
    title: what it does, for people.
    argv: a module with a `main`, and its arguments.
    outputs: files and folders that it alone writes.
    proof: the file among them that says that it is done.
    reads: files whose content decides what comes out.
    needs: steps whose outputs it reads.
    prints: whether `proof` is what it prints.
    metrics: a metrics.jsonl that tells how far it is.
    unless: a file that makes the step needless, whoever wrote it.
    gradual: whether `unless` is there before the step is done.
  """

  name: str
  title: str
  argv: tuple[str, ...]
  proof: pathlib.Path
  outputs: tuple[pathlib.Path, ...] = ()
  reads: tuple[pathlib.Path, ...] = ()
  needs: tuple[str, ...] = ()
  prints: bool = False
  metrics: pathlib.Path | None = None
  unless: pathlib.Path | None = None
  gradual: bool = False

  @property
  def command(self) -> str:
    """The line that does the same by hand."""
    module, *arguments = self.argv
    words = ["instructrec"] if module == CLI else ["python", "-m", module]
    line = shlex.join([*words, *arguments])
    return f"{line} > {shlex.quote(str(self.proof))}" if self.prints else line

  def key(self, keys: Mapping[str, str]) -> str:
    """Returns a hash of all that the step is made of.

    Args:
      keys: of the steps before it, by name.
    """
    parts = [
      list(self.argv),
      {str(path): storage.sha256_of(path) for path in self.reads},
      {name: keys[name] for name in self.needs},
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
