"""What an answer is worth: used, or set aside under a name that says why.

Nothing is ever replaced by filler: a text that is set aside is missing.
"""

import enum
import json
import re
from collections.abc import Mapping

from instructrec_jax.teacher.chat import Status

_WORD = re.compile(r"\w+")
_FIRST_PERSON = re.compile(r"\b(i|i'm|i've|i'd|my|mine|me|myself)\b")
_THIRD_PERSON = re.compile(r"^(the|this) (user|customer|shopper|buyer)\b")
_TITLE_RUN = 4


class Quality(enum.StrEnum):
  """Verdict on one text of an answer."""

  OK = "ok"
  EMPTY = "empty"
  """The teacher had nothing to say."""
  TITLE_LEAK = "title_leak"
  """The intention names its target."""
  WRONG_PERSONA = "wrong_persona"
  """A preference that says "I", or an intention about "the user"."""
  REFUSED = "refused"
  TRUNCATED = "truncated"
  MALFORMED = "malformed"
  FAILED = "failed"


def read_texts(
  kind: str, *, status: Status, text: str, title: str = ""
) -> dict[str, tuple[Quality, str]]:
  """Judges each text of an answer.

  Args:
    kind: "preference" or "intention".
    status: of the answer.
    text: the raw answer.
    title: of an intention's target.

  Returns:
    By field: the verdict and the text, as one line. An answer that gives no
    texts has its verdict under "answer".
  """
  if status != Status.ANSWERED:
    return {"answer": (Quality(status.value), "")}
  fields: Mapping[str, str] = json.loads(text)
  judged = {}
  for name, value in fields.items():
    line = " ".join(value.split())
    judged[name] = (judge(kind, line, title=title), line)
  return judged


def judge(kind: str, text: str, *, title: str = "") -> Quality:
  """Judges one text; see `Quality`."""
  if not text:
    return Quality.EMPTY
  lowered = text.lower().replace("’", "'")
  if kind == "preference":
    if _FIRST_PERSON.search(lowered):
      return Quality.WRONG_PERSONA
  elif _THIRD_PERSON.search(lowered):
    return Quality.WRONG_PERSONA
  elif names_title(text, title):
    return Quality.TITLE_LEAK
  return Quality.OK


def names_title(text: str, title: str) -> bool:
  """Whether a text names a title: a run of its words, or all if it is short.

  Runs of four words are taken: "for PlayStation 4" stands in many titles and
  names none.
  """
  words = _WORD.findall(title.lower())
  if not words:
    return False
  said = f" {' '.join(_WORD.findall(text.lower()))} "
  size = min(_TITLE_RUN, len(words))
  runs = (words[i : i + size] for i in range(len(words) - size + 1))
  return any(f" {' '.join(run)} " in said for run in runs)
