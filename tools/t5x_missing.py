"""Tells what the tests with T5X lack; exit status 1 if they lack anything.

  INSTRUCTREC_T5X=CHECKOUT python tools/t5x_missing.py

Each package of requirements/t5x.txt that is absent or of another version, and
each of T5X's scripts that does not import. A version that differs may do; what
does not import will not. AirIO and JEstimator are looked for beside CHECKOUT.
"""

import importlib
import importlib.metadata
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ("t5x.train", "t5x.eval", "t5x.infer", "tensorboard.summary")


def checkouts() -> list[str]:
  """Returns what INSTRUCTREC_T5X names and what lies beside it."""
  checkout = os.environ.get("INSTRUCTREC_T5X")
  if not checkout:
    return []
  folder = pathlib.Path(checkout).absolute()
  names = [folder, folder.parent / "airio", folder.parent / "jestimator"]
  return [str(path) for path in names]


def differing() -> list[str]:
  """Returns a line for each pinned package that is absent or another one."""
  lines = (ROOT / "requirements" / "t5x.txt").read_text().splitlines()
  pins = [re.match(r"([\w-]+)==([\w.]+)", line) for line in lines]
  found = []
  for name, wanted in (pin.groups() for pin in pins if pin):
    try:
      version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      version = "absent"
    if version != wanted:
      found.append(f"{name}: {version}, pinned {wanted}")
  return found


def unimportable() -> list[str]:
  """Returns a line for each module of T5X's that does not import."""
  found = []
  for name in SCRIPTS:
    try:
      importlib.import_module(name)
    except Exception as error:
      found.append(f"{name}: {type(error).__name__}: {error}")
  return found


def main() -> int:
  """Prints what is missing; returns the exit status."""
  sys.path += checkouts()
  for path in checkouts():
    if not pathlib.Path(path).is_dir():
      print(f"missing: {path}: no such folder")
  for line in differing():
    print(f"differs: {line}")
  missing = unimportable()
  for line in missing:
    print(f"missing: {line}")
  print("the T5X tests " + ("lack the above" if missing else "can run"))
  return int(bool(missing))


if __name__ == "__main__":
  sys.exit(main())
