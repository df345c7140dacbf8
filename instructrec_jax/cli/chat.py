"""Converses in the terminal: a wish, then corrections, each answered.

Each line of the input is a turn: "a tent", "in green, please", "not from that
brand", "more like the second", "not the first", "cheaper", "I'll take the
third". What is refused never comes back. An empty line, or the end of the
input, ends it.
"""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

if TYPE_CHECKING:
  from instructrec_jax.serving.recommender import Reply

EXAMPLE = "instructrec chat --model exports/games"
# Refused titles that are told one by one.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Options(opt.Served):
  history: Annotated[tuple[str, ...], opt.Arg(metavar="TITLE")] = ()
  """what the user bought, oldest first"""
  preference: opt.Text | None = None
  """the user's lasting taste"""
  turns: opt.InputFile | None = None
  """how turns are worded for the model, a file like instructions/turns.yaml"""
  top: Annotated[int, opt.Arg(least=1, most=100)] = 5
  """titles to show"""
  json: opt.Json = False


def run(options: Options) -> None:
  """Answers line by line, until the input ends."""
  from instructrec_jax.instructions.conversation import FILE, Turn, load_turns

  wording = load_turns(options.turns or FILE)["composed"]
  recommender = options.recommender()
  if not recommender.titles:
    raise InputError(
      "there is no catalogue to converse about: add --dataset, or name an "
      "export with one."
    )
  if sys.stdin is None:
    raise InputError("there is no input to read turns from: it is closed.")
  # What is wrong with these is told before the first turn.
  recommender.compose(
    "hello", history=options.history, preference=options.preference
  )
  is_asked = sys.stdin.isatty() and not options.json
  turns: list[Turn] = []
  while words := _line("> " if is_asked else ""):
    turn = Turn(words)
    try:
      reply = recommender.converse(
        [*turns, turn],
        history=options.history,
        preference=options.preference,
        k=options.top,
        wording=wording,
      )
    except InputError as error:
      # What was said before still holds.
      if not is_asked:
        raise
      print(f"({error})", file=sys.stderr)
      continue
    turns.append(Turn(words, shown=reply.shown))
    if options.json:
      print(json.dumps(_object(reply)), flush=True)
    else:
      print(_text(reply), flush=True)


def _line(prompt: str) -> str:
  try:
    words = input(prompt).strip()
    words.encode()  # In the C locale, bytes that are no text come through.
    return words
  except EOFError:
    return ""
  except UnicodeError:
    raise InputError(
      "the input is no text: UTF-8, one turn a line, is expected."
    ) from None


def _object(reply: "Reply") -> dict[str, Any]:
  need = reply.need
  return {
    **reply.recommendation.to_json(),
    "required": [[*each] for each in need.required],
    "denied": [*need.denied],
    "refused": [*need.refused],
    "chosen": [*need.chosen],
    "unread": need.unread,
    "given_up": [*reply.given_up],
    "scarce": [*reply.scarce],
    "near": [*reply.near],
  }


def _text(reply: "Reply") -> str:
  lines = [
    f"{rank:3}  {each.probability:6.1%}  {each.title}"
    for rank, each in enumerate(reply.recommendation.ranking, start=1)
  ]
  need = reply.need
  rules = [" or ".join(each) for each in need.required]
  rules += [f"not {word}" for word in need.denied]
  if len(need.refused) > _NAMED:
    rules.append(f"not {len(need.refused)} titles that were refused")
  else:
    rules += [f"not {title!r}" for title in need.refused]
  if rules:
    lines.append(f"     ({'; '.join(rules)})")
  if need.unread:
    lines.append(
      f"     (no title has a word of {need.unread!r}: only the model reads it)"
    )
  if reply.given_up:
    lines.append(
      f"     (nothing is left with {', '.join(reply.given_up)}: given up)"
    )
  if reply.near:
    count = len(reply.shown) - len(reply.near)
    lines.append(
      f"     (only {count} with {' and '.join(reply.scarce)} left; "
      f"{len(reply.near)} {'comes' if len(reply.near) == 1 else 'come'} near: "
      f"{'; '.join(reply.near)})"
    )
  return "\n".join(lines or ["     (no title is left)"])
