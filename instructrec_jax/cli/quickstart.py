"""The whole pipeline on a made-up shop: offline, on a CPU, in minutes.

Shoppers with planted tastes -> preferences and intentions by the offline
teacher -> instructions -> a tiny T5 from random weights -> HR/NDCG beside the
baselines, and beside the best that any ranker could do; and what it writes
beside the teacher's texts. Each step is one of
the other subcommands; README walks through the same steps on real data. In
the end a server of the model is asked, as any program would ask it.
"""

import contextlib
import functools
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec quickstart --out runs/quickstart"

# A shop's titles are three words long: rows shorter than T5's 512/64 keep
# attention cheap on a CPU.
INPUT_LENGTH = 160
TARGET_LENGTH = 32
VOCABULARY_SIZE = 2000
# Few kinds of instruction, so that minutes of training are enough: what comes
# next, and what somebody asks for in any words, with a history and without, of
# the whole shop and among candidates; and what it writes: the taste before an
# item, a query, a history.
RANKING = (
  *("p1_i0_t2", "p1_i0_t3", "p1_i1_t2", "p1_i2_t2", "p1_i2_t3"),
  *("p0_i1_t2", "p0_i2_t2", "p0_i2_t3"),
)
WRITTEN = {
  "p1_p2_chain_of_thought": 1,
  "p0_i1_turn_around": 0.5,
  "p1_p2_relatedness": 0.5,
}
FAMILIES = (*RANKING, *WRITTEN)
# A shopper has one preference and many purchases: what is written has its own
# share, or it would be seldom met.
MIXTURE = ",".join(
  [
    "instructrec_all_v1=20",
    *(f"instructrec_{name}_v1={share}" for name, share in WRITTEN.items()),
  ]
)
SCENARIOS = ("sequential", "personalised_i2")
WRITING = ("sequential", "query_writing_i1", "history_writing_p2")
# Requests of these: writing takes longer than ranking.
WRITTEN_REQUESTS = 100
BATCH_SIZE = 16
LEARNING_RATE = 1e-2
VALIDATION_USERS = 300
WORKED_EXAMPLES = 4
# Requests among which worked examples are sought.
LOOKED_THROUGH = 60
# The best of the shop that are told of each wish.
LISTED = 3
OUTPUTS = {
  *("shop", "packed", "model", "results", "written", "report.html"),
  *("answers.json", "wishes.json"),
}
# Two opposite wishes: kinds of product, and where the shop has them.
WISHES = {"Rope": "Climbing", "Kayak": "Water Sports"}
# A question of each kind of intention.
QUESTIONS = {
  "vague": "a {kind} please",
  "specific": "{department}, {kind}",
}
# What people type, in words that the model was not trained on.
PLAIN = (
  "tent",
  "a rope please",
  "I'd like a kayak",
  "looking for a stove",
  "do you sell helmets?",
  "got any lanterns",
  "a kayak, not orange",
)
_READY = "serving on "


@dataclass(frozen=True, kw_only=True)
class Options:
  out: opt.Out = Path("runs/quickstart")
  """folder for everything that is made"""
  # Of fewer the 5-core may leave nothing.
  users: Annotated[opt.Count, opt.Arg(least=200, most=1_000_000)] = 2000
  """shoppers"""
  steps: opt.Count = 650
  """training steps"""
  test_users: opt.Count = 1000
  """shoppers that rankers are compared on"""
  seed: opt.Seed = 0
  force: opt.Force = False
  """replace --out, if quickstart made it"""


def run(options: Options) -> None:
  """Makes OUT/{shop,packed,model,results,written}, and OUT/report.html."""
  from instructrec_jax import locks

  with locks.writing_in(options.out):
    _clear(options.out, force=options.force)
    _run(options)


def _run(options: Options) -> None:
  from instructrec_jax import storage
  from instructrec_jax.data.folder import requests_file
  from instructrec_jax.data.prepare import prepare
  from instructrec_jax.evaluation import report
  from instructrec_jax.evaluation.evaluate import evaluate
  from instructrec_jax.evaluation.html_report import write_html_report
  from instructrec_jax.evaluation.validation import make_validator
  from instructrec_jax.seq2seq.config import T5Config
  from instructrec_jax.seqio_bridge import build
  from instructrec_jax.seqio_bridge.pack import pack_mixture
  from instructrec_jax.teacher.annotate import annotate_offline
  from instructrec_jax.training import loop, optimizer

  out, steps, seed = options.out, options.steps, options.seed
  started = time.monotonic()

  _say("1/7 prepare: a shop of shoppers with planted tastes")
  shop = out / "shop"
  prepare(format="synthetic", users=options.users, out=shop, seed=seed)

  _say("2/7 annotate: preferences and intentions, by rules")
  # A training target of each shopper has a teacher's wish, to learn to write
  # one; all that are shown in training are a crowd's.
  annotate_offline(shop, training_targets=1)

  _say("3/7 build: instructions from templates, in a crowd's words")
  build.build(
    shop,
    train_vocabulary_size=VOCABULARY_SIZE,
    fold_case=True,
    options=build.Options(
      families=FAMILIES,
      paraphrases=True,
      crowd_wishes=True,
      input_length=INPUT_LENGTH,
      target_length=TARGET_LENGTH,
      seed=seed,
    ),
  )

  _say("4/7 pack: the mixture of all these instructions")
  packed = pack_mixture(
    mixture=MIXTURE,
    dataset=shop,
    out=out / "packed",
    input_length=INPUT_LENGTH,
    target_length=TARGET_LENGTH,
    # As many as the steps will read: three to a row, and a few more.
    examples=4 * BATCH_SIZE * steps,
    seed=seed,
  )

  _say(f"5/7 train: a tiny T5 from random weights, {steps} steps")
  model = out / "model"
  config = T5Config(
    vocab_size=packed.manifest["model_vocab_size"],
    emb_dim=128,
    num_heads=4,
    head_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=256,
    dropout_rate=0.0,
  )
  validate = make_validator(
    shop / requests_file("sequential", "validation"),
    limit=VALIDATION_USERS,
    vocabulary=packed.vocabulary,
    seed=seed,
  )
  loop.train(
    model_dir=model,
    config=config,
    data=packed,
    optimizer=optimizer.adafactor(
      optimizer.warmup_stable_decay(
        peak=LEARNING_RATE,
        warmup_steps=min(50, steps // 2),
        decay_steps=max(steps // 4, 1),
        total_steps=steps,
      )
    ),
    steps=steps,
    batch_size=BATCH_SIZE,
    checkpoint_period=max(steps // 2, 1),
    seed=seed,
    validate=functools.partial(validate, config),
  )

  _say(f"6/7 evaluate: every ranker on the same {options.test_users} shoppers")
  results = evaluate(
    dataset=shop,
    out=out / "results",
    model=model,
    scenarios=SCENARIOS,
    limit=options.test_users,
    seed=seed,
  )
  print(report.markdown(results))
  written = evaluate(
    dataset=shop,
    out=out / "written",
    model=model,
    scenarios=WRITING,
    rankers=("popularity", "model"),
    reason=True,
    limit=min(options.test_users, WRITTEN_REQUESTS),
    seed=seed,
  )
  print("What it writes, and its own words before it ranks:\n")
  print(report.markdown(written))
  _say("7/7 ask: a server, two kinds of question, and what people type")
  with _serving(model, shop) as url:
    answers, wishes = _ask(url, shop), _recommend(url, shop)
  _print_answers(answers)
  _print_wishes(wishes)
  storage.write_json(out / "answers.json", answers)
  storage.write_json(out / "wishes.json", wishes)
  page = out / "report.html"
  write_html_report(
    page,
    title="instructrec quickstart",
    results=results,
    training_log=model / "metrics.jsonl",
    examples=_worked_examples(model, shop),
    sections=[
      *_written_sections(written),
      *_wish_sections(answers, wishes),
    ],
    notes=[
      "A made-up shop, whose shoppers are loyal to a brand and a finish and "
      "move through kinds of product in a fixed order. The model is a T5 of "
      f"{config.num_encoder_layers} + {config.num_decoder_layers} layers, "
      f"trained from random weights for {steps} steps on a CPU; the ceiling "
      "is what Bayes' rule gets from the shop's own rules.",
    ],
  )
  minutes = (time.monotonic() - started) / 60
  print(
    f"{page} has the table, the curves and worked examples "
    f"({minutes:.1f} minutes).\nNext: look into what the model was trained "
    f"on,\n  instructrec inspect instructrec_all_v1 --dataset {shop}\n"
    "ask the model yourself, on a page of your own machine,\n"
    f"  instructrec serve --model {model} --dataset {shop}\n"
    'or take your own reviews through the same steps (README, "Real data").'
  )


def _worked_examples(model: Path, shop: Path) -> list[dict[str, Any]]:
  """Returns requests whose answer is found and, as far as there are, missed."""
  from instructrec_jax.data.folder import requests_file
  from instructrec_jax.requests import read_requests
  from instructrec_jax.scoring.reranker import T5Ranker

  file = shop / requests_file("sequential", "test")
  requests = list(read_requests(file, limit=LOOKED_THROUGH))
  examples = [
    {
      "instruction": request.instruction,
      "candidates": request.candidates,
      "scores": scores,
      "target": request.target,
    }
    for request, scores in zip(
      requests, T5Ranker.load(model).score(requests), strict=True
    )
  ]
  missed = [e for e in examples if e["scores"].argmax() != e["target"]]
  found = [e for e in examples if e["scores"].argmax() == e["target"]]
  half = WORKED_EXAMPLES // 2
  chosen = [*found[: max(half, WORKED_EXAMPLES - len(missed))], *missed]
  return chosen[:WORKED_EXAMPLES]


def _written_sections(written: dict[str, Any]) -> list[Any]:
  """Returns what reasoning first gains, and what the model writes."""
  from instructrec_jax.evaluation import report
  from instructrec_jax.evaluation.html_report import Section, writing_sections

  (scenario,) = written["scenarios"]
  reasoning = Section(
    "Reasoning first",
    "The model tells the taste, and ranks by what is likely behind its own "
    "words; and is asked as briefly without any.",
    [report.scenario_table(written, scenario)],
  )
  return [reasoning, *writing_sections(written)]


def _wish_sections(
  answers: list[dict[str, Any]], wishes: list[dict[str, Any]]
) -> list[Any]:
  """Returns the answers to opposite wishes, and to what people type."""
  from instructrec_jax.evaluation.html_report import Section
  from instructrec_jax.tables import Row, Table

  swapped = Table(
    ["wish", "first", "second", "third"],
    [
      Row(
        [
          f"“{answer['query']}”",
          *(answer["documents"][r["index"]] for r in answer["results"][:3]),
        ]
      )
      for answer in answers
    ],
  )
  alone, personal = wishes[::2], wishes[1::2]
  typed = Table(
    ["wish", "to a stranger", "to this shopper"],
    [
      Row([f"“{a['query']}”", a["titles"][0], p["titles"][0]])
      for a, p in zip(alone, personal, strict=True)
    ],
  )
  had = "; ".join(personal[0]["history"][-3:])
  return [
    Section(
      "The wish is swapped",
      "The same shopper and the same ten candidates: only the words differ.",
      [swapped],
      is_text=True,
    ),
    Section(
      "Of the whole shop",
      "In words that the model was not trained on: its best title, for "
      f"somebody of whom nothing is known, and for one who has {had}.",
      [typed],
      is_text=True,
    ),
  ]


def _say(step: str) -> None:
  print(f"\n{step}", flush=True)


def _clear(out: Path, *, force: bool) -> None:
  """Removes what an earlier quickstart has left, and nothing else."""
  from instructrec_jax import locks
  from instructrec_jax.cards import DATASET_CARD, refuse_changed

  names = {path.name for path in out.iterdir()} - {locks.INSIDE}
  if not names:
    return
  if not force:
    raise InputError(
      f"{out} exists already: name another place with --out, or pass "
      "--force to replace it."
    )
  # A killed run leaves .NAME.partial.
  finals = {re.sub(r"^\.(.+)\.(partial|old)", r"\1", name) for name in names}
  shop = out / "shop"
  is_synthetic = (shop / "planted.json").exists()
  if not finals <= OUTPUTS or not (is_synthetic or names <= {".shop.partial"}):
    raise InputError(
      f"{out} holds something else than quickstart makes: name another "
      "place with --out."
    )
  if is_synthetic:
    _refuse_paid(shop)
    refuse_changed(shop / DATASET_CARD)
  for name in names:
    path = out / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refuse_paid(shop: Path) -> None:
  """Raises InputError if a chat model has answered questions on the shop."""
  from instructrec_jax.data import folder
  from instructrec_jax.teacher import offline
  from instructrec_jax.teacher.annotations import Annotations

  teachers: list[str] = []
  if (shop / folder.ANNOTATIONS_FILE).exists():
    teachers += Annotations.load(folder.DatasetFolder.open(shop)).teachers
  paid = [name for name in teachers if name.split()[0] != offline.TEACHER]
  paid += [
    name
    for name in (folder.CHAT_RANKINGS_FILE, folder.BATCHES_FILE)
    if (shop / name).exists()
  ]
  if paid:
    raise InputError(
      f"{shop} holds a chat model's answers, which --force does not replace: "
      "name another place with --out."
    )


def _ask(url: str, shop: Path) -> list[dict[str, Any]]:
  """Asks both wishes of a shopper in each kind of question.

  Returns:
    For each question, its `kind`, the `wish`, the `query`, the model
    `instruction`, the candidates as `documents` and the `results` of
    /v1/rerank, the best first.
  """
  history, documents = _shopper(shop)
  answers = []
  for kind, words in QUESTIONS.items():
    for wish, department in WISHES.items():
      said = wish.lower() if kind == "vague" else wish
      body = {
        "query": words.format(kind=said, department=department),
        "documents": documents,
        "history": history,
        "kind": kind,
      }
      found = _post(f"{url}/v1/rerank", body)
      del found["id"]  # another each time
      answers.append({**body, "wish": wish, **found})
  return answers


def _recommend(url: str, shop: Path) -> list[dict[str, Any]]:
  """Asks for the whole shop's best, as people type it.

  Returns:
    For each of `PLAIN` without and with a history, the `query`, the `history`
    and the best `titles`.
  """
  history, _ = _shopper(shop)
  wishes = []
  for words in PLAIN:
    for had in ([], history):
      body = {"query": words, "history": had, "top_n": LISTED}
      found = _post(f"{url}/v1/recommend", body)
      titles = [result["document"]["text"] for result in found["results"]]
      wishes.append({"query": words, "history": had, "titles": titles})
  return wishes


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
  request = urllib.request.Request(
    url, json.dumps(body).encode(), {"Content-Type": "application/json"}
  )
  with urllib.request.urlopen(request, timeout=3600) as response:
    return json.load(response)


def _shopper(shop: Path) -> tuple[list[str], list[str]]:
  """Returns a shopper's purchases, and an item of each of ten kinds."""
  from instructrec_jax.data.folder import DatasetFolder

  folder = DatasetFolder.open(shop)
  history = [folder.items[item] for item in folder.sequences.user(0)]
  # All of the brand that the shopper bought first; the kinds that are wished
  # for come first to be among the ten.
  brand = history[0].title.split()[0]
  offered = {
    item.categories[-1]: item.title
    for item in folder.items
    if item.title.startswith(brand) and item not in history
  }
  kinds = [*WISHES, *(kind for kind in offered if kind not in WISHES)][:10]
  return [item.title for item in history], sorted(offered[k] for k in kinds)


@contextlib.contextmanager
def _serving(model: Path, shop: Path) -> Iterator[str]:
  """Runs `instructrec serve` on a free port of this machine."""
  command = [sys.executable, "-m", "instructrec_jax.cli.main", "serve"]
  options = ["--model", model, "--dataset", shop, "--port", "0"]
  # A few questions need few programs, whose compilation their answers await.
  options += ["--skip-warm-up", "--timeout", "3600"]
  with subprocess.Popen(
    [*command, *map(str, options)], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout is not None
    try:
      said = (line.strip() for line in process.stdout)
      url = next((line for line in said if line.startswith(_READY)), None)
      if url is None:
        raise InputError("the server did not start; its error is above.")
      yield url.removeprefix(_READY).split()[0]
    finally:
      process.terminate()


def _print_answers(answers: list[dict[str, Any]]) -> None:
  first, second = WISHES
  for kind in QUESTIONS:
    for answer in answers:
      if answer["kind"] == kind:
        print(f'"{answer["query"]}"  ({kind}, {answer["template"]})')
        for rank, result in enumerate(answer["results"][:3], start=1):
          title = answer["documents"][result["index"]]
          print(f"  {rank}. {title:<24} {result['relevance_score']:.2f}")
    print(
      f"  {first} is {shift(answers, kind):.1f} nats further ahead of {second} "
      "if it is asked for\n"
    )


def _print_wishes(wishes: list[dict[str, Any]]) -> None:
  had = next(wish["history"] for wish in wishes if wish["history"])
  print(f"Of the whole shop, and to somebody who has {'; '.join(had[-3:])}:")
  for alone, personal in zip(wishes[::2], wishes[1::2], strict=True):
    first, other = alone["titles"][0], personal["titles"][0]
    print(f"  {alone['query']:<24} {first:<24} {other}")
  print()


def shift(answers: list[dict[str, Any]], kind: str) -> float:
  """Returns how much a question's wish moves the ranking, in nats.

  That is the first wish's lead over the second's when the first is asked for,
  less its lead when the second is: positive if the words move the ranking
  their way.
  """
  first, second = WISHES
  lead = {}
  for answer in answers:
    if answer["kind"] == kind:
      scores = {
        wish: result["log_likelihood"]
        for result in answer["results"]
        for wish in WISHES
        if wish in answer["documents"][result["index"]].split()
      }
      lead[answer["wish"]] = scores[first] - scores[second]
  return lead[first] - lead[second]
