"""The offline teacher: rules instead of a model, so no key and no cost.

It lets every part of the pipeline run, and marks every row as made by rules.
Preferences come from categories and from words that titles share; intentions
are the customer's own sentences, picked from the review.
"""

import collections
import itertools
import json
import re
from collections.abc import Iterable, Sequence

from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.questions import (
  PreferenceQuestion,
  Question,
  chat_request,
)

TEACHER = "offline"
MODEL = "offline-rules-1"

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]+")
_FIRST_PERSON = re.compile(r"\b(i|i'm|i've|my|me|we|our)\b", re.IGNORECASE)
_WISH = re.compile(
  r"\b(need\w*|want\w*|looking|wish\w*|gift|because|so that|search\w*|"
  r"for (my|a|our|an|the)|use[ds]?|hop(e|ed|ing)|replace\w*|upgrade\w*)\b",
  re.IGNORECASE,
)
_PRAISE = re.compile(
  r"\b(great|good|easy|sturdy|solid|quality|clear|sound\w*|comfortable|light|"
  r"cheap|price|durable|simple|strong|small|works?|perfect|nice|fast|fun|"
  r"beautiful|well|value|fits?|reliable|looks?)\b",
  re.IGNORECASE,
)
_COMMON = frozenset(
  "the and for with from new pack set inch black white red blue edition pro "
  "one two three with-out size of in to by on at or a an".split()
)
_LATEST = 3
_FEWEST_WORDS, _MOST_WORDS = 5, 30


def answer(question: Question) -> tuple[ChatRequest, ChatAnswer]:
  """Answers a question by rules, as a transport would."""
  request = chat_request(question, model=MODEL, parameters={})
  if isinstance(question, PreferenceQuestion):
    fields = preference(question)
  else:
    fields = intention(question.review)
  text = json.dumps(fields, ensure_ascii=False)
  return request, ChatAnswer(
    request.key, Status.ANSWERED, text=text, finish_reason="stop"
  )


def preference(question: PreferenceQuestion) -> dict[str, str]:
  """Describes a preference by what the user's items have in common."""
  titles, labels = question.titles, question.labels
  if not labels:
    labels = [()] * len(titles)
  everywhere = _common(titles, labels)
  halves = len(titles) // 2
  lasting = [
    word
    for word in _common(titles[:halves], labels[:halves], most=6)
    if word in _common(titles[halves:], labels[halves:], most=6)
  ]
  latest = _common(titles[-_LATEST:], labels[-_LATEST:])
  return {
    "general": f"The user likes {_list(everywhere)}." if everywhere else "",
    "long_term": (
      f"The user keeps coming back to {_list(lasting[:3])}." if lasting else ""
    ),
    "short_term": (
      f"The user has lately been interested in {_list(latest)}."
      if latest
      else ""
    ),
  }


def intention(review: str) -> dict[str, str]:
  """Picks the sentence about the user's need, and one about the item."""
  sentences = [
    sentence
    for sentence in _SENTENCE.split(review)
    if _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS
  ]
  mine = [s for s in sentences if _FIRST_PERSON.search(s)]
  user_view = max(mine, key=lambda s: len(_WISH.findall(s)), default="")
  others = [s for s in sentences if s != user_view and _PRAISE.search(s)]
  best = max(others, key=lambda s: len(_PRAISE.findall(s)), default="")
  item_view = best
  if best and not _FIRST_PERSON.search(best):
    item_view = f"I am looking for something of which one can say: {best}"
  return {"user_view": user_view, "item_view": item_view}


def _common(
  titles: Iterable[str], labels: Iterable[Sequence[str]], *, most: int = 3
) -> list[str]:
  """Returns the most frequent labels or, without any, words of titles."""
  counts = collections.Counter(itertools.chain.from_iterable(labels))
  if not counts:
    counts = collections.Counter(
      word
      for title in titles
      for word in dict.fromkeys(_WORD.findall(title))
      if len(word) > 2 and word.lower() not in _COMMON
    )
  # Counters keep the order of first use among equals.
  return [name for name, _ in counts.most_common(most)]


def _list(names: Sequence[str]) -> str:
  if len(names) == 1:
    return names[0]
  return f"{', '.join(names[:-1])} and {names[-1]}"
