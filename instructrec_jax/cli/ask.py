"""Answers a user's own words: the model instruction and a ranking.

The fitting template is chosen and filled (the paper's section 2.3.2), and a
model ranks the candidates by the log-likelihood of their titles. Without
--model the instruction alone is printed, its length estimated.
"""

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from instructrec_jax.instructions.recommend import Recommendation

EXAMPLE = (
  'instructrec ask "I want something scary for tonight" --model runs/games '
  '--history "Resident Evil 4" --candidates "FIFA 15" "The Evil Within"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("words", nargs="?", default="", help="what the user says")
  parser.add_argument(
    "--model", type=pathlib.Path, help="folder of `train` or `export`"
  )
  parser.add_argument(
    "--history",
    nargs="+",
    default=[],
    metavar="TITLE",
    help="what the user bought, oldest first",
  )
  choice = parser.add_mutually_exclusive_group()
  choice.add_argument(
    "--candidates", nargs="+", default=[], metavar="TITLE", help="to rank"
  )
  choice.add_argument(
    "--candidates-file",
    type=pathlib.Path,
    metavar="FILE",
    help="to rank: a title a line, or the column `title` of a .parquet file",
  )
  choice.add_argument(
    "--dataset",
    type=pathlib.Path,
    help="rank this dataset folder's whole catalogue, less the history",
  )
  parser.add_argument("--preference", help="the user's lasting taste")
  parser.add_argument("--context", help="where, when or what for")
  parser.add_argument(
    "--kind",
    choices=("auto", "preference", "vague", "specific"),
    default="auto",
    help="of the words (default: %(default)s, by rules)",
  )
  parser.add_argument("--template", help="a name, instead of the first to fit")
  parser.add_argument(
    "--templates",
    nargs="+",
    metavar="YAML",
    help="to choose from (default: an export's own, else the package's)",
  )
  parser.add_argument(
    "--input-length",
    type=int,
    default=512,
    help="tokens that the encoder takes (default: %(default)s)",
  )
  parser.add_argument(
    "--top", type=int, default=10, help="to print (default: %(default)s)"
  )
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Prints the instruction and the ranking."""
  from instructrec_jax.errors import InputError
  from instructrec_jax.instructions.recommend import recommend
  from instructrec_jax.instructions.templates import load_templates

  if args.top < 1:
    raise InputError(f"--top is {args.top}: at least 1 is needed.")
  candidates, catalogue = args.candidates, ()
  if args.candidates_file:
    candidates = _read_titles(args.candidates_file)
  if args.dataset:
    from instructrec_jax.data.folder import DatasetFolder

    catalogue = [item.title for item in DatasetFolder.open(args.dataset).items]
  ranker = vocabulary = None
  templates = load_templates(*args.templates or ())
  if args.model:
    # Only here is jax needed.
    from instructrec_jax.checkpoints.export_folder import is_export
    from instructrec_jax.serving.recommender import Recommender

    if not (candidates or catalogue or is_export(args.model)):
      raise InputError(
        "--model ranks candidates: name them with --candidates, "
        "--candidates-file or --dataset, or name an export with a catalogue."
      )
    recommender = Recommender.load(args.model, templates=args.templates)
    ranker, vocabulary = recommender.ranker, recommender.vocabulary
    catalogue = catalogue or recommender.titles
    templates = recommender.templates
  found = recommend(
    args.words,
    ranker=ranker,
    vocabulary=vocabulary,
    history=args.history,
    candidates=candidates,
    catalogue=catalogue,
    preference=args.preference,
    context=args.context,
    kind=args.kind,
    template=args.template,
    templates=templates,
    budget=args.input_length,
  )
  if args.json:
    print(json.dumps(found.to_json(top=args.top), ensure_ascii=False))
  else:
    print("\n".join(_lines(found, top=args.top)))


def _read_titles(path: pathlib.Path) -> list[str]:
  from instructrec_jax.errors import InputError

  if not path.is_file():
    raise InputError(f"{path}: no such file of titles.")
  try:
    if path.suffix == ".parquet":
      import pyarrow.parquet as pq

      titles = pq.read_table(path, columns=["title"])["title"].to_pylist()
    else:
      titles = path.read_text(encoding="utf-8").splitlines()
  except (OSError, ValueError, KeyError) as error:
    raise InputError(
      f"{path}: a title a line or, in a .parquet file, a column `title` is "
      f"expected ({str(error).splitlines()[0]:.120})."
    ) from None
  titles = [str(title) for title in titles if str(title or "").strip()]
  if not titles:
    raise InputError(f"{path}: there is no title in it.")
  return titles


def _lines(found: "Recommendation", *, top: int) -> list[str]:
  composed = found.composed
  operations = ", ".join(composed.operations)
  lines = [
    f"{composed.form.template.name}  {composed.label}  {operations}",
    composed.instruction,
  ]
  if composed.replaced:
    lines.append(f"(replaced or left out: {composed.replaced!r})")
  if composed.items_dropped:
    lines.append(f"(items of the history not shown: {composed.items_dropped})")
  if composed.candidates and "candidates" not in composed.form.slots:
    lines.append("(the candidates are ranked without being listed)")
  for rank, each in enumerate(found.ranking[:top], start=1):
    lines += [""] * (rank == 1)
    lines.append(
      f"{rank:3}  {each.log_likelihood:9.3f}  {each.probability:6.1%}  "
      f"{each.title}"
    )
  return lines
