"""The offline teacher: rules instead of a model, so no key and no cost.

It lets every part of the pipeline run, and marks every row as made by rules.
Preferences tell the kinds of product that a user bought. Intentions are wishes
for the target's kind, with what its review says of whom and what it is for and
of how it has to be; no word is copied from a review or title.
"""

import collections
import dataclasses
import functools
import json
import random
from collections.abc import Iterable

from instructrec_jax.teacher import wishes
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.kinds import kind_of, listed, wordings
from instructrec_jax.teacher.quality import names_title
from instructrec_jax.teacher.questions import (
  IntentionQuestion,
  PreferenceQuestion,
  Question,
  chat_request,
)

TEACHER = "offline"
MODEL = "offline-rules-3"

_LATEST = 3
_MOST_KINDS = 3


def answer(
  question: Question, *, seed: int = 0
) -> tuple[ChatRequest, ChatAnswer]:
  """Answers a question by rules, as a transport would.

  Equal questions have equal answers, in whatever order they are asked; the
  seed chooses between wordings.
  """
  asked = chat_request(question, model=MODEL, parameters={"seed": seed})
  if isinstance(question, PreferenceQuestion):
    seen = [asked.user, *map("|".join, question.labels)]
  else:
    seen = [asked.user, question.title, "|".join(question.labels)]
  request = dataclasses.replace(asked, user="\n".join(seen))
  rng = random.Random(request.key)
  if isinstance(question, PreferenceQuestion):
    fields = preference(question, rng)
  else:
    fields = intention(question, rng)
  text = json.dumps(fields, ensure_ascii=False)
  return request, ChatAnswer(
    request.key, Status.ANSWERED, text=text, finish_reason="stop"
  )


def preference(
  question: PreferenceQuestion, rng: random.Random
) -> dict[str, str]:
  """Describes a taste by the kinds of product that were bought.

  What would only repeat the general description is left empty.
  """
  labels = question.labels or [()] * len(question.titles)
  kinds = [kind.plural if (kind := kind_of(own)) else "" for own in labels]
  general = _common(kinds)
  half = len(kinds) // 2
  late = set(kinds[half:])
  lasting = [k for k in _common(kinds[:half], most=6) if k in late]
  latest = _common(kinds[-_LATEST:]) if len(kinds) > _LATEST else []
  # What is new says more than what is not.
  latest = [kind for kind in latest if kind not in general] or latest
  often = collections.Counter(filter(None, kinds)).most_common(2)
  if len(often) > 1 and often[0][1] >= max(2 * often[1][1], 3):
    general = general[:2]
    form = "one_first"
  else:
    form = "general"
  told = {"general": _worded(form, general, rng)}
  for name, own in (("long_term", lasting[:2]), ("short_term", latest)):
    is_new = set(own) != set(general)
    told[name] = _worded(name, own, rng) if is_new else ""
  return told


def intention(
  question: IntentionQuestion, rng: random.Random
) -> dict[str, str]:
  """Wishes for the target, from the customer's and from the product's side."""
  cues, kind = wishes.Cues.of(question.review), kind_of(question.labels)
  names = functools.partial(names_title, title=question.title)
  # Each view has praise of its own, the product's side first.
  asked, felt = (
    dataclasses.replace(cues, aspects=cues.aspects[first::2])
    for first in (0, 1)
  )
  return {
    "user_view": wishes.needs(felt, kind, rng=rng, names=names),
    "item_view": wishes.asks(asked, kind, rng=rng, names=names),
  }


def _common(kinds: Iterable[str], *, most: int = _MOST_KINDS) -> list[str]:
  """Returns the most frequent kinds; equals in the order of first use."""
  counts = collections.Counter(filter(None, kinds))
  return [name for name, _ in counts.most_common(most)]


def _worded(form: str, kinds: list[str], rng: random.Random) -> str:
  if not kinds:
    return ""
  wording = rng.choice(wordings()["preferences"][form])
  # A kind that is a list itself comes last: "picks as well as bags and cases".
  simple_first = sorted(kinds, key=lambda kind: " and " in kind)
  *others, last = simple_first
  both = listed(simple_first)
  if " and " in last and others:
    is_plain = not any(" and " in other for other in others)
    before = listed(others) if is_plain else f"{', '.join(others)},"
    both = f"{before} as well as {last}"
  return wording.format(all=both, a=kinds[0], b=kinds[-1])
