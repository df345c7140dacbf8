"""Wishes by rules: a kind of product and the cues of a review -> a sentence.

Words come from `offline.yaml` alone. A review decides which of them are said,
so neither a brand nor a complaint nor praise after the purchase gets in.
"""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from instructrec_jax.teacher.kinds import (
  Kind,
  with_article,
  wordings,
)

_NEGATED = re.compile(
  r"\b(no|not|never|without|hardly|barely|too|less|lacks?|isn't|aren't|wasn't|"
  r"weren't|don't|doesn't|didn't|won't|can't|wouldn't|nothing|if)\W+(\w+\W+)?"
  r"(\w+\W+)?$"
)
_TRIES = 24
# A product for one of these is for no other, and none is for another.
_GUITARS = frozenset("acoustic electric bass classical 12-string".split())
_INSTRUMENTS = _GUITARS | frozenset(
  "guitar guitars ukulele uke mandolin banjo violin fiddle cello harmonica sax "
  "drum drums keyboard piano mic microphone".split()
)
_SOMETHING = Kind("something", "topic")
# What strings, software and the like are not.
_OF_SIZE = frozenset("small compact portable lightweight solid".split())
_HURRIED = 0.15


@dataclasses.dataclass(frozen=True, slots=True)
class Cues:
  """What a review tells of the need behind it; empty if nothing.

  Attributes:
    whom: tails such as "for my son".
    purposes: tails such as "for gigs".
    treats: the same of gifts, such as "for the movies".
    another: "second", "spare" or "new", if it is not the first.
    aspects: adjectives ("is") and tails ("so") of what it praises.
  """

  whom: tuple[str, ...]
  purposes: tuple[str, ...]
  treats: tuple[str, ...]
  another: str
  aspects: tuple[Mapping[str, Sequence[str]], ...]

  @classmethod
  def of(cls, review: str) -> "Cues":
    """Reads a review."""
    words = wordings()
    text = " ".join(review.lower().replace("’", "'").split())
    people = "|".join(sorted(words["people"].split(), key=len, reverse=True))
    person = re.search(
      r"\b(?:for|to|gave|give|send|sent|with) ((?:my|our|a|an) "
      rf"(?:{people}))(?![\w-])",
      text,
    )
    things = "|".join(words["things"])
    thing = re.search(rf"\b(?:my|our) (?:\w+ )?({things})\b", text)
    whom = []
    for pattern, (alone, beside) in words["occasions"].items():
      if re.search(rf"\b(?:{pattern})\b", text):
        if person:
          whose = f"{person[1]}'" + "s" * (person[1][-1] != "s")
          alone = beside.format(whom=person[1], whose=whose)
        whom.append(alone)
    if not whom and person:
      whom.append(f"for {person[1]}")
    if thing:
      whom.append(f"for my {thing[1]}")
    uses, treats = (
      tuple(itertools.chain.from_iterable(t for _, t in _said(words[of], text)))
      for of in ("uses", "gift_uses")
    )
    found = [name for _, name in _said(words["another"], text)]
    aspects = [
      {
        name: [word.format(*match.groups()) for word in said]
        for name, said in says.items()
      }
      for match, says in _said(words["aspects"], text)
    ]
    another = found[0] if found else ""
    return cls(tuple(whom), uses, treats, another, tuple(aspects))


def _said(
  patterns: Mapping[str, Any], text: str
) -> Iterator[tuple[re.Match[str], Any]]:
  """Yields what is said in a text and not denied there."""
  for pattern, says in patterns.items():
    for match in re.finditer(rf"\b(?:{pattern})\b", text):
      before = re.split(r"[.!?;]", text[: match.start()])[-1]
      if not _NEGATED.search(before):
        yield match, says
        break


def needs(
  cues: Cues,
  kind: Kind | None,
  *,
  rng: random.Random,
  names: Callable[[str], bool],
) -> str:
  """Wishes from the customer's side: for whom or what, and whether a second.

  Args:
    cues: of the review.
    kind: of the product; None if its labels name none.
    rng: decides between wordings.
    names: whether a text says what it must not, such as the product's title.

  Returns:
    One sentence; "" if there is nothing to say without that.
  """

  def say(kind: Kind | None = kind) -> str:
    noun = _noun(kind, rng, is_gift=bool(cues.whom))
    tails = _purpose(cues, noun, rng)
    another = cues.another if rng.random() < 0.8 and not _is_gift(noun) else ""
    said = "".join(t if t[0] == "," else f" {t}" for t in tails)
    is_ = []
    if not another and rng.random() < (0.4 if said else 0.8):
      is_, so = _properties(cues, noun, 1, rng)
      said = said or so
    return _sentence(noun, said, rng, adjectives=is_, another=another)

  return _first(say, names) or _first(lambda: say(None), names)


def asks(
  cues: Cues,
  kind: Kind | None,
  *,
  rng: random.Random,
  names: Callable[[str], bool],
) -> str:
  """Wishes from the product's side: how it should be; arguments as `needs`.

  Returns:
    One sentence; "" if the review praises nothing that could be asked for.
  """

  def say() -> str:
    noun = _noun(kind, rng, is_gift=bool(cues.whom))
    is_, so = _properties(cues, noun, rng.choice((1, 2, 2)), rng)
    return _sentence(noun, so, rng, adjectives=is_) if is_ or so else ""

  return _first(say, names)


def _purpose(cues: Cues, kind: Kind, rng: random.Random) -> list[str]:
  fitting = [tail for tail in cues.whom if _fits(tail, kind)]
  purposes = cues.treats if _is_gift(kind) else cues.purposes
  tails = [rng.choice(fitting)] if fitting and rng.random() < 0.9 else []
  if purposes and rng.random() < (0.4 if tails else 0.9):
    tail = rng.choice(purposes)
    if not tails:
      tails.append(tail)
    elif tail.startswith("for ") and not _is_gift(kind):
      tails.append(f", mostly {tail}")
    elif not tail.startswith("for ") and not tails[0].endswith("minute"):
      tails.append(tail)
  return tails


def _properties(
  cues: Cues, kind: Kind, count: int, rng: random.Random
) -> tuple[list[str], str]:
  """Returns adjectives, and what comes after the product."""
  is_, so = [], []
  for aspect in rng.sample(cues.aspects, min(count, len(cues.aspects))):
    name = rng.choice(sorted(aspect))
    word = rng.choice(aspect[name])
    if _is_gift(kind) and word not in wordings()["of_gifts"]:
      continue
    if kind.number in ("set", "mass") and word in _OF_SIZE:
      continue
    (is_ if name == "is" else so).append(word)
  if len(so) == 2:
    if all(word.startswith("that ") for word in so):
      so = [f"{so[0]} and {so[1].removeprefix('that ')}"]
    else:
      so.pop()
  return is_, f" {so[0]}" if so else ""


def _is_gift(kind: Kind) -> bool:
  return kind.noun in wordings()["gifts"]


def _first(say: Callable[[], str], names: Callable[[str], bool]) -> str:
  tries = (say() for _ in range(_TRIES))
  return next((text for text in tries if text and not names(text)), "")


def _noun(kind: Kind | None, rng: random.Random, *, is_gift: bool) -> Kind:
  if kind is None or kind.noun == "gift card":
    gift = rng.choice(wordings()["gifts"])
    return Kind(gift, "count", f"{gift}s") if is_gift or kind else _SOMETHING
  is_weak = kind.head.noun in wordings()["weak_heads"]
  chance = rng.random()
  if chance > 0.95:
    return _SOMETHING
  return kind if chance < 0.7 or is_weak else kind.head


def _fits(tail: str, kind: Kind) -> bool:
  """Whether a product of a kind can be for what the tail says."""
  # No stand is for a stand.
  own = {word.removesuffix("s") for word in re.split("[ ,]+", kind.head.noun)}
  if tail.startswith("for my ") and tail.split()[-1].removesuffix("s") in own:
    return False
  for_, of = (
    _INSTRUMENTS.intersection(re.split("[ ,]+", text))
    for text in (tail, kind.noun)
  )
  words = wordings()
  of_devices = set(words["of_devices"])
  if {*words["devices"]} & {*tail.split()} and kind is not _SOMETHING:
    return bool(of_devices & {*kind.noun.split()})
  if not for_:
    return True
  if kind.head.noun in _INSTRUMENTS:
    return False
  # A guitar may be of any kind; an acoustic one is not electric.
  for_, of = (
    found - {"guitar", "guitars"} or (_GUITARS if found else found)
    for found in (for_, of)
  )
  return not of or bool(of & for_)


def _sentence(
  kind: Kind,
  tail: str,
  rng: random.Random,
  *,
  adjectives: Sequence[str] = (),
  another: str = "",
) -> str:
  """Puts a wish together; "" for one of nothing in particular."""
  words = wordings()
  if kind is _SOMETHING and not (tail or adjectives):
    return ""
  frames = words["frames"]
  is_one = kind.number == "count" and " or " not in kind.noun
  is_short = tail.count(" for ") + tail.count(" to ") + tail.count(" at ") == 1
  is_short &= kind is not _SOMETHING
  if tail.startswith(" for ") and is_short and rng.random() < 0.2:
    frames = words["lead_frames"]
  if is_one and another and not adjectives and rng.random() < 0.6:
    frames = words["another_frames"][another]
  if kind is _SOMETHING:
    frames = [frame for frame in frames if "{n}" in frame]
  before = f"{', '.join(adjectives)} " if adjectives else ""
  if kind.number == "topic":
    rest = kind.noun.removeprefix("something")
    product = f"something {' and '.join(adjectives)}".rstrip() + rest
  elif kind.number == "count":
    if adjectives and _is_gift(kind):
      # Not "a handy nice gift".
      kind = Kind(kind.noun.split()[-1], "count", kind.plural.split()[-1])
    product = with_article(" ".join(f"{before}{another} {kind.noun}".split()))
  else:
    extra = {"second": "extra"}.get(another, another)
    product = " ".join(f"{before}{extra} {kind.noun}".split())
    product = rng.choice(("some ", "")) + product
  frame = rng.choice(frames)
  text = frame.format(
    n=product,
    it=kind.noun,
    many=before + kind.plural,
    lead=tail.strip(),
    **{"for": tail},
  )
  if frame[0].islower() or rng.random() < _HURRIED:
    return text.lower().removesuffix(".")
  return text[0].upper() + text[1:]
