"""How much code one action goes through: a benchmark of the structure.

  .venv/bin/python benchmarks/structure.py --quickstart runs/quickstart

Counts the package's functions, and the files they are in, that are entered by
one training step (traced as rows, and as a flat batch), one scored request, one
catalogue search, and one scenario from its requests to its table; and the lines
and files of the package. `runs/quickstart` is the folder of `instructrec
quickstart`, which brings the model and the shop.
"""

import argparse
import contextlib
import io
import pathlib
import sys
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli.main import main as instructrec
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.text.packed_dataset import PackedDataset
from instructrec_jax.training import optimizer
from instructrec_jax.training.inputs import capacity_of_steps
from instructrec_jax.training.state import initial_state, state_shardings
from instructrec_jax.training.step import jitted_step

PACKAGE = pathlib.Path(mesh_lib.__file__).parent


class Trace:
  """Functions of the package that a call enters, in order."""

  def __init__(self):
    """Starts empty."""
    self.calls: list[tuple[str, str]] = []

  def of(self, action: Callable[[], object]) -> "Trace":
    """Runs an action and notes what it enters."""
    sys.setprofile(self._note)
    try:
      action()
    finally:
      sys.setprofile(None)
    return self

  def _note(self, frame, event, _):
    code = frame.f_code
    if event == "call" and "<" not in code.co_name:
      path = pathlib.Path(code.co_filename)
      if path.is_relative_to(PACKAGE):
        name = str(path.relative_to(PACKAGE))
        self.calls.append((name, code.co_qualname))

  def files(self, folder: str = "") -> set[str]:
    """Returns the files that were entered, of one folder or of all."""
    return {file for file, _ in self.calls if file.startswith(folder)}

  def row(self, name: str) -> str:
    """Returns a row of the table."""
    functions, files = len(set(self.calls)), self.files()
    changes = sum(
      one[0] != other[0]
      for one, other in zip(self.calls, self.calls[1:], strict=False)
    )
    return f"| {name:<24} | {functions:>9} | {len(files):>5} | {changes:>7} |"


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quickstart", type=pathlib.Path, required=True)
  parser.add_argument("--verbose", action="store_true", help="name the files")
  args = parser.parse_args()
  model, shop = args.quickstart / "model", args.quickstart / "shop"
  packed = PackedDataset.open(args.quickstart / "packed")
  config, params = model_folder.load_params(model)
  vocabulary = model_folder.load_vocabulary(model)
  traces: dict[str, Trace] = {}

  transform = optimizer.adafactor(optimizer.constant(1e-3))
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  state = initial_state(config, transform, seed=0)
  shardings = state_shardings(config, transform, state=state, mesh=mesh)
  rows = np.arange(8)
  batch = packed.batch(rows)
  capacity = capacity_of_steps([packed.token_counts(rows)], 1)
  for name, options in {
    "a training step, rows": {"capacity": None},
    "a training step, flat": {"capacity": capacity},
  }.items():
    step = jitted_step(
      config, transform, mesh=mesh, shardings=shardings, **options
    )
    traces[name] = Trace().of(lambda step=step: step.trace(state, batch))

  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  request = RankingRequest("1", "A tent, please.", ("Tent", "Rope", "Kayak"))
  traces["a scored request"] = Trace().of(lambda: ranker.score([request]))
  search = CatalogueSearch(
    ["Tent", "Rope", "Kayak"],
    config=config,
    params=params,
    vocabulary=vocabulary,
  )
  traces["a catalogue search"] = Trace().of(lambda: search.top(["A tent."], 1))

  with tempfile.TemporaryDirectory() as out:
    command = ["evaluate", "--dataset", str(shop), "--model", str(model)]
    command += ["--scenarios", "sequential", "--limit", "50", "--force"]
    silent = contextlib.redirect_stdout(io.StringIO())
    with silent, contextlib.redirect_stderr(io.StringIO()):
      traces["a scenario, to its table"] = Trace().of(
        lambda: instructrec([*command, "--out", f"{out}/results"])
      )

  files = list(PACKAGE.rglob("*.py"))
  lines = sum(len(file.read_text().splitlines()) for file in files)
  print(f"the package: {lines:,} lines in {len(files)} files\n")
  print("|                          | functions | files | changes |")
  print("| ------------------------ | --------: | ----: | ------: |")
  for name, trace in traces.items():
    print(trace.row(name))
  scenario = traces["a scenario, to its table"].files("evaluation/")
  print(f"\nof the scenario's files, {len(scenario)} are of evaluation/")
  if args.verbose:
    for name, trace in traces.items():
      print(f"\n{name}: {', '.join(sorted(trace.files()))}")
      if not name.startswith("a scenario"):
        print(" ", " ".join(dict.fromkeys(q for _, q in trace.calls)))


if __name__ == "__main__":
  main()
