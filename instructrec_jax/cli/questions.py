"""What quickstart asks its model in the end, over HTTP as any client would."""

import contextlib
import json
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

from instructrec_jax.errors import InputError

# Two opposite wishes: kinds of product, and where the shop has them.
WISHES = {"Rope": "Climbing", "Kayak": "Water Sports"}
# Of each kind a question. The model has only learned what the last one means,
# but in words that the other two share with it.
QUESTIONS = {
  "preference": "I like {department} and {kind}.",
  "vague": "I want something for {department} this weekend, a {kind}",
  "specific": "{department}, {kind}",
}
_READY = "serving on "


def ask_server(
  *, model: pathlib.Path, dataset: pathlib.Path
) -> list[dict[str, Any]]:
  """Asks both wishes of a shopper in each kind of question.

  Args:
    model: a folder of `train`.
    dataset: the synthetic shop.

  Returns:
    For each question, its `kind`, the `wish`, the `query`, the model
    `instruction`, the candidates as `documents` and the `results` of
    /v1/rerank, the best first.

  Raises:
    InputError: the server does not start.
  """
  history, documents = _shopper(dataset)
  answers = []
  with _serving(model, dataset) as url:
    for kind, words in QUESTIONS.items():
      for wish, department in WISHES.items():
        asked = {
          "query": words.format(kind=wish, department=department),
          "documents": documents,
          "history": history,
          "kind": kind,
        }
        answer = _post(f"{url}/v1/rerank", asked)
        answers.append({**asked, "wish": wish, **answer})
  return answers


def shift(answers: list[dict[str, Any]], kind: str) -> float:
  """Returns what a question's wish does to the ranking.

  Args:
    answers: of `ask_server`.
    kind: of the question.

  Returns:
    How much further, in nats, the first wish's item is ahead of the second's
    when the first is wished for and not the second: positive if the words
    move the ranking their way.
  """
  first, second = WISHES
  ahead = {}
  for answer in answers:
    if answer["kind"] == kind:
      scores = {
        wish: result["log_likelihood"]
        for result in answer["results"]
        for wish in WISHES
        if wish in answer["documents"][result["index"]].split()
      }
      ahead[answer["wish"]] = scores[first] - scores[second]
  return ahead[first] - ahead[second]


def _shopper(dataset: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns a shopper's purchases, and an item of each of ten kinds."""
  from instructrec_jax.data.folder import DatasetFolder

  folder = DatasetFolder.open(dataset)
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
def _serving(model: pathlib.Path, dataset: pathlib.Path) -> Iterator[str]:
  """Runs `instructrec serve` on a free port of this machine."""
  command = [sys.executable, "-m", "instructrec_jax.cli.main", "serve"]
  options = ["--model", model, "--dataset", dataset, "--port", "0"]
  with subprocess.Popen(
    [*command, *map(str, options)], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout is not None
    try:
      said = (line.strip() for line in process.stdout)
      url = next((line for line in said if line.startswith(_READY)), None)
      if url is None:
        raise InputError("the server did not start; what it says is above.")
      yield url.removeprefix(_READY).split()[0]
    finally:
      process.terminate()


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
  request = urllib.request.Request(
    url, json.dumps(body).encode(), {"Content-Type": "application/json"}
  )
  with urllib.request.urlopen(request, timeout=300) as answer:
    return json.load(answer)
