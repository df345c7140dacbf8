"""Prints the figure of docs/architecture.md: which chapter imports which.

  .venv/bin/python tools/architecture.py

The arrows are read from the code's imports; one that follows from two others
is left out. A test compares the figure in the docs with what this prints.
"""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "instructrec_jax"
# What a chapter is there for; the names are folders, or files, of the package.
CHAPTERS = {
  "cli": "cli<br>the instructrec command",
  "reproduction": "reproduction<br>the paper's tables",
  "serving": "serving<br>HTTP, page, Python",
  "seqio_bridge": "seqio_bridge<br>TFDS, SeqIO, T5X",
  "evaluation": "evaluation<br>scenarios, metrics, report",
  "baselines": "baselines<br>what the model must beat",
  "training": "training<br>loss, step, loop",
  "generation": "generation<br>greedy, sampling, beams",
  "scoring": "scoring<br>log-likelihoods, search",
  "instructions": "instructions<br>templates, rows, build",
  "teacher": "teacher<br>preferences, intentions",
  "data": "data<br>readers, splits, candidates",
  "checkpoints": "checkpoints<br>T5X, orbax, HF, export",
  "seq2seq": "seq2seq<br>T5 1.1, layouts",
  "kernels": "kernels<br>attention",
  "text": "text<br>vocabulary, packing",
}


def imports_of(chapter: str) -> set[str]:
  """Returns the other chapters that one imports anywhere in its code."""
  found = set()
  for file in (PACKAGE / chapter).rglob("*.py"):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
      names = []
      if isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
      elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      for name in names:
        first, *rest = name.split(".")
        if first == PACKAGE.name and rest:
          found.add(rest[0])
  return found & CHAPTERS.keys() - {chapter}


def figure() -> str:
  """Returns a Mermaid flowchart of the chapters, without implied arrows."""
  imports = {chapter: imports_of(chapter) for chapter in CHAPTERS}

  def reachable(chapter: str) -> set[str]:
    return set().union(*({c} | reachable(c) for c in imports[chapter]))

  lines = ["flowchart TD"]
  lines += [f'  {name}["{label}"]' for name, label in CHAPTERS.items()]
  for chapter, others in imports.items():
    implied = set().union(*map(reachable, others))
    lines += [f"  {chapter} --> {other}" for other in sorted(others - implied)]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  print(figure(), end="")
