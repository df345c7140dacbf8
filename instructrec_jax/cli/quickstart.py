"""The whole pipeline on a made-up shop: offline, on a CPU, in minutes.

Shoppers with planted tastes -> preferences and intentions by the offline
teacher -> instructions -> a tiny T5 from random weights -> HR/NDCG beside the
baselines, and beside the best that any ranker could do. Each step is one of
the other subcommands; README walks through the same steps on real data. In
the end a server of the model is asked, as any program would ask it.
"""

import argparse
import functools
import pathlib
import re
import shutil
import time
from typing import Any

EXAMPLE = "instructrec quickstart --out runs/quickstart"

# A shop's titles are three words long: rows shorter than T5's 512/64 keep
# attention cheap on a CPU.
INPUT_LENGTH = 160
TARGET_LENGTH = 32
VOCABULARY_SIZE = 2000
# Few kinds of instruction, so that minutes of training are enough: what comes
# next, as matching, reranking and Yes or No, and a search by category.
FAMILIES = ("p1_i0_t2", "p1_i0_t3", "p1_i0_t0", "p1_i2_t3")
SCENARIOS = ("sequential", "personalised_i2")
BATCH_SIZE = 16
LEARNING_RATE = 1e-2
VALIDATION_USERS = 300
WORKED_EXAMPLES = 3
# Of fewer shoppers the 5-core may leave nothing.
FEWEST_USERS = 200
MADE = {"shop", "packed", "model", "results", "answers.json", "report.html"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("runs/quickstart"),
    help="folder for everything that is made (default: %(default)s)",
  )
  for name, default, what in (
    ("--users", 3000, "shoppers"),
    ("--steps", 600, "training steps"),
    ("--test-users", 1000, "whom the rankers are compared on"),
    ("--seed", 0, "of everything that is random"),
  ):
    parser.add_argument(
      name, type=int, default=default, help=f"{what} (default: %(default)s)"
    )
  parser.add_argument("--force", action="store_true", help="replace --out")


def run(args: argparse.Namespace) -> None:
  """Runs the pipeline and prints the table."""
  quickstart(
    out=args.out,
    users=args.users,
    steps=args.steps,
    test_users=args.test_users,
    seed=args.seed,
    force=args.force,
  )


def quickstart(
  *,
  out: pathlib.Path,
  users: int = 3000,
  steps: int = 600,
  test_users: int = 1000,
  seed: int = 0,
  force: bool = False,
) -> dict[str, Any]:
  """Makes OUT/{shop,packed,model,results}, OUT/{answers.json,report.html}.

  Args:
    out: a folder that does not exist yet, unless `force`.
    users: shoppers in the synthetic shop.
    steps: training steps.
    test_users: shoppers that the rankers are compared on.
    seed: of everything that is random.
    force: replace `out`, if it is empty or of quickstart.

  Returns:
    The results, as `evaluation.evaluate.evaluate` returns them.

  Raises:
    InputError: a number is too small, or `out` exists and either `force` is
      not set or it holds something else.
  """
  from instructrec_jax import storage
  from instructrec_jax.data.prepare import prepare
  from instructrec_jax.errors import InputError
  from instructrec_jax.evaluation import report
  from instructrec_jax.evaluation.evaluate import evaluate
  from instructrec_jax.evaluation.html_report import write_html_report
  from instructrec_jax.evaluation.validation import make_validator
  from instructrec_jax.seq2seq.config import T5Config
  from instructrec_jax.seqio_bridge.build import Options, build
  from instructrec_jax.seqio_bridge.pack import pack_mixture
  from instructrec_jax.teacher.annotate import annotate_offline
  from instructrec_jax.training import loop, optimizer

  for name, value, least in (
    ("users", users, FEWEST_USERS),
    ("steps", steps, 1),
    ("test-users", test_users, 1),
    ("seed", seed, 0),
  ):
    if value < least:
      raise InputError(f"--{name} is {value}: at least {least} is needed.")
  if out.exists():
    if not force:
      raise InputError(
        f"{out} exists already: name another place with --out, or pass "
        "--force to replace it."
      )
    if not _is_replaceable(out):
      raise InputError(
        f"{out} holds something else than quickstart makes: name another "
        "place with --out."
      )
    shutil.rmtree(out)
  started = time.monotonic()

  _say("1/7 prepare: a shop of shoppers with planted tastes")
  shop = out / "shop"
  prepare(format="synthetic", users=users, out=shop, seed=seed)

  _say("2/7 annotate: preferences and intentions, by rules")
  annotate_offline(shop)

  _say("3/7 build: instructions from templates")
  build(
    shop,
    train_vocabulary_size=VOCABULARY_SIZE,
    options=Options(families=FAMILIES, seed=seed),
  )

  _say("4/7 pack: the mixture of all these instructions")
  packed = pack_mixture(
    mixture="instructrec_all_v1",
    dataset=shop,
    out=out / "packed",
    input_length=INPUT_LENGTH,
    target_length=TARGET_LENGTH,
    seed=seed,
  )

  _say(f"5/7 train: a tiny T5 from random weights, {steps} steps")
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
    shop / "requests" / "sequential_validation.parquet",
    limit=VALIDATION_USERS,
    vocabulary=packed.vocabulary,
    seed=seed,
  )
  loop.train(
    model_dir=out / "model",
    config=config,
    data=packed,
    optimizer=optimizer.adafactor(
      optimizer.constant(peak=LEARNING_RATE, warmup_steps=50)
    ),
    steps=steps,
    batch_size=BATCH_SIZE,
    checkpoint_period=max(steps // 4, 1),
    seed=seed,
    validate=functools.partial(validate, config),
  )

  _say(f"6/7 evaluate: every ranker on the same {test_users} shoppers")
  results = evaluate(
    dataset=shop,
    out=out / "results",
    model=out / "model",
    scenarios=SCENARIOS,
    limit=test_users,
    seed=seed,
  )
  print(report.markdown(results))

  page = out / "report.html"
  write_html_report(
    page,
    title="instructrec quickstart",
    results=results,
    training_log=out / "model" / "metrics.jsonl",
    examples=_worked_examples(out),
    notes=[
      "A made-up shop, whose shoppers are loyal to a brand and a finish and "
      "move through kinds of product in a fixed order. The model is a T5 of "
      f"{config.num_encoder_layers} + {config.num_decoder_layers} layers, "
      f"trained from random weights for {steps} steps on a CPU; the ceiling "
      "is what Bayes' rule gets from the shop's own rules.",
    ],
  )
  _say("7/7 ask: a server, three kinds of question, each for two wishes")
  storage.write_json(out / "answers.json", _ask(out))
  minutes = (time.monotonic() - started) / 60
  print(
    f"{page} has the table, the curves and worked examples "
    f"({minutes:.1f} minutes).\nNext: look into what the model was trained "
    f"on,\n  instructrec inspect instructrec_all_v1 --dataset {shop}\n"
    "ask the model yourself, on a page of your own machine,\n"
    f"  instructrec serve --model {out / 'model'} --dataset {shop}\n"
    'or take your own reviews through the same steps (README, "Real data").'
  )
  return results


def _is_replaceable(out: pathlib.Path) -> bool:
  """Whether a folder is empty, or has what quickstart makes and no more."""
  if not out.is_dir():
    return False
  names = {path.name for path in out.iterdir()}
  # A killed run leaves .NAME.partial.
  made = {re.sub(r"^\.(.+)\.(partial|old)", r"\1", name) for name in names}
  synthetic = (out / "shop" / "planted.json").exists()
  return made <= MADE and (synthetic or names <= {".shop.partial"})


def _worked_examples(out: pathlib.Path) -> list[dict[str, Any]]:
  """Ranks the first few test requests, for people to look at."""
  from instructrec_jax.requests import read_requests
  from instructrec_jax.scoring.reranker import T5Ranker

  requests = list(
    read_requests(
      out / "shop" / "requests" / "sequential_test.parquet",
      limit=WORKED_EXAMPLES,
    )
  )
  scores = T5Ranker.load(out / "model").score(requests)
  return [
    {
      "instruction": request.instruction,
      "candidates": request.candidates,
      "scores": of_request,
      "target": request.target,
    }
    for request, of_request in zip(requests, scores, strict=True)
  ]


def _ask(out: pathlib.Path) -> list[dict[str, Any]]:
  """Asks a server of the model; prints the answers and what words do."""
  from instructrec_jax.cli import questions

  answers = questions.ask_server(model=out / "model", dataset=out / "shop")
  for kind in questions.QUESTIONS:
    for answer in answers:
      if answer["kind"] != kind:
        continue
      print(f'"{answer["query"]}"  ({kind}, {answer["template"]})')
      for rank, result in enumerate(answer["results"][:3], start=1):
        title = answer["documents"][result["index"]]
        print(f"  {rank}. {title:<24} {result['relevance_score']:.2f}")
    wished, other = questions.WISHES
    print(
      f"  {wished} is {questions.shift(answers, kind):.1f} nats further ahead "
      f"of {other} if it is asked for\n"
    )
  return answers


def _say(step: str) -> None:
  print(f"\n{step}", flush=True)
