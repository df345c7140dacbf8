"""Every ranker on the very same candidates: from requests to the table."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.baselines.chat import ChatOptions, ChatRanker
from instructrec_jax.baselines.popularity import training_counts
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import (
  chat_sample,
  consistency,
  protocol,
  report,
)
from instructrec_jax.evaluation.rankers import (
  READERS,
  applies,
  find_rankers,
  load_ranker,
  with_rankers,
)
from instructrec_jax.evaluation.run import SELECT, Run
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.evaluation.selection import Wording
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.teacher.budget import Estimate

# What results.json lists.
_LISTS = (
  "scenarios",
  "rows",
  "end_to_end",
  "comparisons",
  "chat",
  "positions",
  "popularity",
  "temperatures",
  "templates",
  "normalisations",
)


def evaluate(
  *,
  dataset: pathlib.Path,
  out: pathlib.Path | None,
  model: pathlib.Path | None = None,
  zero_shot: pathlib.Path | None = None,
  chat: ChatOptions | None = None,
  text_encoder: str | None = None,
  scenarios: Sequence[str] = ("all",),
  rankers: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  permutations: int = 1,
  select_template: bool = False,
  normalisation: str = Normalisation.SUM,
  seed: int = 0,
  force: bool = False,
) -> dict[str, Any]:
  """Ranks a dataset folder's requests and writes results.json and results.md.

  Baselines are fitted on the training interactions. Without a model, a folder
  that has candidates but no built instructions will do.

  Args:
    dataset: a folder of `prepare`, or of `build` if a model is to be ranked.
      It need not be the one that the model was tuned on.
    out: the folder to write; None writes nothing: of several processes, all
      rank, and one writes.
    model: a folder of `train` or `export`.
    zero_shot: another such folder, of a model that was not tuned, for the row
      `zero_shot`.
    chat: of the ranker `chat`, which is asked before all else: a cap that is
      reached then costs no time.
    text_encoder: a sentence-transformers model, a folder or a name, that
      DSSM, TEM and the two-tower matcher read texts with, instead of words'
      vectors of their own.
    scenarios: names from `scenarios.SCENARIOS`; "all" is every one that the
      folder has requests for.
    rankers: names from `rankers.RANKERS`; "all" is every one that is available.
    split: "validation" or "test".
    limit: only a random sample of so many requests of each scenario.
    permutations: orders of the candidates in the prompt that the model's
      scores are averaged over, where the prompt lists them.
    select_template: rank each scenario in the words of the form that is best
      for the model on validation, not of the one that was built. Every form
      is ranked on the same requests, so it takes as many times as long.
    normalisation: one of `scoring.normalisation.Normalisation`, or "select":
      the best on validation, chosen for each scenario. The row `model` is of
      the sum whatever it says; another one gets a row of its own.
    seed: of that sample, of the orders and of the bootstrap.
    force: replace `out` if it exists.

  Returns:
    What results.json holds: `rows` of scenario, ranker, metric, value, low,
    high (the 95% interval) and n; `comparisons` of every ranker with the best
    baseline; `chat`, what a chat model's answers were worth, and all rankers
    on its sample; `positions`, HR@1 by the target's place in the prompt,
    unless that is permuted; `popularity`, what is recommended, and HR@1 on
    head and tail; `temperatures` of pointwise rankers; `templates` and
    `normalisations`, what was chosen among them; `scenarios` with the hash of
    their candidates; `labels`, how tables call the rankers; `impossible`,
    sentences on figures that cannot be: our own mistakes; the arguments.

  Raises:
    InputError: an argument is unknown or something is missing, a folder's
      requests were built from other candidates than it holds, or `out` would
      replace what is read.
  """
  folder = DatasetFolder.open(dataset)
  names = find_rankers(
    rankers,
    folder=folder,
    model=model,
    zero_shot=zero_shot,
    chat=chat is not None,
  )
  if out is not None:
    _check_inputs_stay(pathlib.Path(out), (dataset, model, zero_shot))
  need_text = not set(names).isdisjoint(READERS)
  _check(split, limit, permutations)
  _check_choices(select_template, normalisation, has_model="model" in names)
  chosen, sources = _find(
    scenarios,
    names,
    folder=folder,
    split=split,
    need_text=need_text,
    limit=limit,
    seed=seed,
  )
  wording = Wording(folder, seed=seed) if select_template else None
  staged = contextlib.nullcontext()
  if out is not None:
    staged = storage.staged_folder(pathlib.Path(out), force=force)
  with staged as partial:
    samples = {}
    if chat is not None:
      asked = ChatRanker(chat, folder, seed=seed)
      samples = {
        scenario.name: chat_sample.ask(asked, source, seed=seed)
        for scenario, source in zip(chosen, sources, strict=True)
        if applies(chat_sample.NAME, scenario)
      }
    run = Run(
      folder=folder,
      rankers={
        name: load_ranker(
          name,
          folder=folder,
          model=model,
          zero_shot=zero_shot,
          text_encoder=text_encoder,
        )
        for name in names
        if name != chat_sample.NAME
      },
      chat=samples,
      counts=training_counts(folder),
      wording=wording,
      split=split,
      limit=limit,
      permutations=permutations,
      normalisation=str(normalisation),
      seed=seed,
    )
    results: dict[str, Any] = {
      "dataset": str(dataset),
      "dataset_sha256": storage.sha256_of(folder.path / "manifest.json"),
      "model": None if model is None else str(model),
      "zero_shot": None if zero_shot is None else str(zero_shot),
      "text_encoder": text_encoder,
      "split": split,
      "limit": limit,
      "permutations": permutations,
      "normalisation": str(normalisation),
      "seed": seed,
      "labels": run.labels(),
      **{name: [] for name in _LISTS},
    }
    for scenario, source in zip(chosen, sources, strict=True):
      for name, entries in run.block(scenario, source).items():
        results[name] += entries
    results["impossible"] = _impossible(results)
    if partial is not None:
      storage.write_json(partial / "results.json", results)
      (partial / "results.md").write_text(
        report.markdown(results), encoding="utf-8"
      )
  return results


def estimate_chat(
  chat: ChatOptions,
  *,
  dataset: pathlib.Path,
  scenarios: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  seed: int = 0,
) -> Estimate:
  """Returns what the ranker `chat` would send at most; sends nothing.

  Args: as of `evaluate`.
  """
  folder = DatasetFolder.open(dataset)
  _check(split, limit, 1)
  ranker = ChatRanker(chat, folder, seed=seed)
  chosen, sources = _find(
    scenarios,
    [chat_sample.NAME],
    folder=folder,
    split=split,
    need_text=True,
    limit=limit,
    seed=seed,
  )
  return ranker.estimate(
    [
      request
      for source in sources
      for request in chat_sample.draw(ranker, source, seed=seed)[1]
    ]
  )


def _find(
  scenarios: Sequence[str],
  rankers: Sequence[str],
  *,
  folder: DatasetFolder,
  split: str,
  need_text: bool,
  limit: int | None,
  seed: int,
) -> tuple[list[Scenario], list[protocol.RequestSource]]:
  """Returns the scenarios that some ranker can rank, and their requests."""
  available = protocol.find_available(
    scenarios, folder=folder, split=split, need_text=need_text
  )
  chosen = with_rankers(available, rankers)
  sources = [
    protocol.find_requests(
      scenario,
      folder=folder,
      split=split,
      need_text=need_text,
      limit=limit,
      seed=seed,
    )
    for scenario in chosen
  ]
  for source in sources:
    if not source.count:
      raise InputError(f"{source.path}: there are no requests to rank.")
  return chosen, sources


def _impossible(results: dict[str, Any]) -> list[str]:
  sizes = {s["name"]: s["candidate_count"] for s in results["scenarios"]}
  tables = [results["rows"], *(entry["rows"] for entry in results["chat"])]
  return [
    sentence
    for rows in tables
    for sentence in consistency.impossible(rows, candidates=sizes)
  ]


def _check_inputs_stay(
  out: pathlib.Path, inputs: Sequence[pathlib.Path | None]
) -> None:
  for source in inputs:
    if source and pathlib.Path(source).resolve().is_relative_to(out.resolve()):
      raise InputError(
        f"{out}: the results would replace {source}: name another place."
      )


def _check(split: str, limit: int | None, permutations: int) -> None:
  if split not in ("validation", "test"):
    raise InputError(f"there is no split {split!r}: validation or test.")
  if limit is not None and limit < 1:
    raise InputError(f"limit is {limit}: rank at least one request.")
  if permutations < 1:
    raise InputError(f"permutations is {permutations}: at least 1 is needed.")


def _check_choices(
  select_template: bool, normalisation: str, *, has_model: bool
) -> None:
  if normalisation not in (*Normalisation, SELECT):
    raise InputError(
      f"there is no normalisation {normalisation!r}: name one of "
      f"{', '.join((*Normalisation, SELECT))}."
    )
  if not has_model and (select_template or normalisation != Normalisation.SUM):
    raise InputError(
      "templates and normalisations are a model's: add --model, and rank it."
    )
