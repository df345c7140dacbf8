"""Answers a user's own words: the model instruction and a ranking.

The fitting template is chosen and filled (the paper's section 2.3.2), and a
model ranks the candidates by the log-likelihood of their titles. Without
--model the instruction alone is printed, its length estimated.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError, check_file

if TYPE_CHECKING:
  from instructrec_jax.instructions.recommend import Recommendation

EXAMPLE = (
  'instructrec ask "I want something scary for tonight" --model runs/games '
  '--history "Resident Evil 4" --candidates "FIFA 15" "The Evil Within"'
)
_RANKED = "what is ranked"


@dataclass(frozen=True, kw_only=True)
class Options:
  words: Annotated[opt.Text, opt.Arg(is_positional=True)] = ""
  """what the user says"""
  model: opt.Model | None = None
  history: Annotated[tuple[str, ...], opt.Arg(metavar="TITLE")] = ()
  """what the user bought, oldest first"""
  candidates: Annotated[
    tuple[str, ...], opt.Arg(metavar="TITLE", either=_RANKED)
  ] = ()
  """titles to rank"""
  candidates_file: Annotated[opt.InputFile | None, opt.Arg(either=_RANKED)] = (
    None
  )
  """to rank: a title a line, or the column `title` of a .parquet file"""
  dataset: Annotated[opt.Dataset | None, opt.Arg(either=_RANKED)] = None
  """rank this dataset folder's whole catalogue, less the history"""
  preference: opt.Text | None = None
  """the user's lasting taste"""
  context: opt.Text | None = None
  """where, when or what for"""
  kind: Literal["auto", "preference", "vague", "specific"] = "auto"
  """of the words; auto is by rules"""
  template: str | None = None
  """a name, instead of the first to fit"""
  templates: opt.Templates | None = None
  """to choose from (default: an export's own, else the package's)"""
  input_length: opt.InputLength = 512
  reason: bool = False
  """have the model tell the user's taste first, and rank by its own words"""
  top: opt.Count = 10
  """ranks to print"""
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Composes the instruction and ranks."""
  from instructrec_jax.instructions.compose import shown_titles
  from instructrec_jax.instructions.recommend import recommend
  from instructrec_jax.instructions.templates import load_templates

  candidates, catalogue = options.candidates, ()
  if options.candidates_file:
    candidates = _read_titles(options.candidates_file)
  if options.dataset:
    from instructrec_jax.data.folder import DatasetFolder

    catalogue = [i.title for i in DatasetFolder.open(options.dataset).items]
  ranker = vocabulary = write = None
  if options.reason and not options.model:
    raise InputError("--reason has a model tell the taste: add --model.")
  templates = load_templates(*options.templates or ())
  if options.model:
    # Only here is jax needed.
    from instructrec_jax.checkpoints.export_folder import is_export
    from instructrec_jax.serving.recommender import Recommender

    if not (candidates or catalogue or is_export(options.model)):
      raise InputError(
        "--model ranks candidates: name them with --candidates, "
        "--candidates-file or --dataset, or name an export with a catalogue."
      )
    recommender = Recommender.load(options.model, templates=options.templates)
    ranker, vocabulary = recommender.ranker, recommender.vocabulary
    write = recommender.write if options.reason else None
    catalogue = catalogue or recommender.titles
    templates = recommender.templates
  said = ("words", "history", "preference", "context", "kind", "template")
  found = recommend(
    **{name: getattr(options, name) for name in said},
    ranker=ranker,
    write=write,
    vocabulary=vocabulary,
    candidates=candidates,
    catalogue=catalogue,
    templates=templates,
    budget=options.input_length,
  )
  merged = len(candidates or ()) - len(found.composed.candidates)
  if merged > 0:
    print(
      f"{merged:,} of {len(candidates):,} candidates have another one's title, "
      "as instructions show it: each title is ranked once.",
      file=sys.stderr,
    )
  answer = found.to_json(top=options.top)
  text = _text(found, top=options.top, reason=options.reason)
  if catalogue:
    known = {*shown_titles(catalogue, name="catalogue")}
    had = found.composed.slots.history
    answer["unknown_history"] = [title for title in had if title not in known]
    for title in answer["unknown_history"]:
      print(
        f"the catalogue has no {title!r}: it is read as its words alone say.",
        file=sys.stderr,
      )
  return answer, text


def _read_titles(path: Path) -> list[str]:
  check_file(path, is_small=True)
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


def _text(found: "Recommendation", *, top: int, reason: bool) -> str:
  composed = found.composed
  operations = ", ".join(composed.operations)
  lines = [
    f"{composed.form.template.name}  {composed.label}  {operations}",
    composed.instruction,
  ]
  if composed.denied:
    lines.append(f"(not wanted: {', '.join(composed.denied)})")
  if composed.replaced:
    lines.append(f"(replaced or left out: {composed.replaced!r})")
  if composed.items_dropped:
    lines.append(f"(items of the history not shown: {composed.items_dropped})")
  if found.reasoning:
    lines.append(f"(the model's reasoning: {found.reasoning})")
  elif reason:
    lines.append("(the model told no taste: ranked without reasoning)")
  if composed.candidates and "candidates" not in composed.form.slots:
    lines.append("(the candidates are ranked without being listed)")
  if found.ranking:
    lines.append("")
  for rank, each in enumerate(found.ranking[:top], start=1):
    lines.append(
      f"{rank:3}  {each.log_likelihood:9.3f}  {each.probability:6.1%}  "
      f"{each.title}"
    )
  return "\n".join(lines)
