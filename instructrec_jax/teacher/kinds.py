"""Category labels -> the words in which people speak of a kind of product.

"Acoustic Guitar Strings" becomes "acoustic guitar strings", "Bags & Cases"
"bag or case", and "Accessories" borrows from the label above it. English only;
what the rules would get wrong is in `offline.yaml`.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

_AND = re.compile(r"\s*(?:,|&|/|\band\b)[\s,&/]*")
_QUALIFIER = re.compile(r"(?i)\s+((?:for|of|with|by|to) .+)$")
# What such a word ends is no product, but says what kind of one.
_ADJECTIVE = re.compile(
  r"(?<!ped)(?<!met)(?<!med)(?<!cryst)al$|[^es]ed$|ous$|ive$|"
  r"(?<!m)(?<!us)(?<!fabr)ic$|^(multipurpose|straight|assorted|adult|solar)$"
)
_TOPIC = re.compile(
  r"(?<!^st)(?<!^sp)\w{3}ing$|[ts]ion$|[^bf]ics$|ment$|logy$|istry$|graphy$|sciences?$|"
  r"skills$|^arts?$|(?<!air)crafts?$|^(care|math)$|sound$|play$|sports$|ance$|"
  r"soccer$|golf$|tennis$|hockey$|(base|soft|basket|foot)ball$"
)
# How the first sound is written, where the letter does not tell.
_VOWEL = re.compile(
  r"(?!uk|uni|us[ae]|eu|one\b|(?-i:U[A-Z0-9]))[aeiou]|hour|honest|heir|"
  r"(?-i:(?!MIDI|LEGO|NASA|HO\b)[FHLMNRSX][A-Z0-9]+\b)|x-|xbox",
  re.IGNORECASE,
)


@functools.cache
def wordings() -> dict[str, Any]:
  """Returns the data of `offline.yaml`."""
  path = pathlib.Path(__file__).with_name("offline.yaml")
  return yaml.safe_load(path.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
  """A kind of product.

  Attributes:
    noun: in the singular if its number is "count", such as "bag or case"; else
      as it is always said: "strings", "software", "something for sewing".
    number: "count"; "set" for what is bought by the set, such as strings;
      "mass" for what has no plural; "topic" for what has no noun.
    plural: all of the kind, "bags and cases".
  """

  noun: str
  number: str = "count"
  plural: str = ""

  @property
  def head(self) -> "Kind":
    """The kind without what narrows it: acoustic guitar strings -> strings."""
    if self.number == "topic":
      return self
    parts = re.split(", | or ", _QUALIFIER.sub("", self.noun))
    # In "chorus or tremolo pedal" what comes first narrows the last.
    long = [place for place, part in enumerate(parts) if " " in part]
    heads = [part.split()[-1] for part in parts[long[0] if long else 0 :]]
    return _kind(listed(heads, by="or"), self.number)


def kind_of(labels: Sequence[str]) -> Kind | None:
  """Returns what the last label names, helped by those above; None if none."""
  return _kind_of(tuple(labels))


@functools.cache
def _kind_of(labels: tuple[str, ...]) -> Kind | None:
  words = wordings()
  for place in reversed(range(len(labels))):
    low = labels[place].lower()
    if low in words["kinds"]:
      noun, _, number = words["kinds"][low].partition(" / ")
      return _kind(noun, number or "count")
    own = _parsed(labels[place])
    if own is None or low in words["says_nothing"]:
      continue
    if low not in words["needs_more"] or not place:
      return own
    if _is_name(labels[place - 1]):
      return _kind(f"{labels[place - 1]} {own.noun}", own.number)
    above = _kind_of(labels[:place])
    if above is None or above.number == "topic":
      return own
    if own.head.noun in re.split(", | or ", above.head.noun):
      return own if " or " in above.noun else above
    narrowed = re.split(", | or ", above.noun)[0]
    return _kind(f"{narrowed} {own.noun}", own.number)
  return None


def with_roots(own: Sequence[str], roots: Sequence[str]) -> tuple[str, ...]:
  """Puts the catalogue's roots before labels that say too little alone."""
  says_little = not own or own[0].lower() in wordings()["needs_more"]
  return (*roots, *own) if says_little else tuple(own)


def with_article(noun_phrase: str) -> str:
  """Puts a or an before words in the singular."""
  return f"{'an' if _VOWEL.match(noun_phrase) else 'a'} {noun_phrase}"


def listed(words: Sequence[str], *, by: str = "and") -> str:
  """Returns "a, b and c"."""
  *others, last = words
  return f"{', '.join(others)} {by} {last}" if others else last


def _kind(noun: str, number: str) -> Kind:
  plural = noun
  if number == "topic":
    plural = noun.replace("something", "things", 1)
  elif number == "count":
    # In "gag or novelty toy" the last part alone has a head.
    *others, last = re.split(", | or ", noun)
    if not (others and " " in last):
      others = [_of_head(part, _plural) for part in others]
    plural = listed([*others, _of_head(last, _plural)])
  return Kind(noun, number, plural)


def _parsed(label: str) -> Kind | None:
  """Reads one label as English; None if it names no product."""
  if _is_name(label):
    return _kind(f"something for {label}", "topic")
  bare = _QUALIFIER.sub("", label)
  rest = label.removeprefix(bare).lower()
  parts = [_lowered(part) for part in _AND.split(bare) if part.strip()]
  side = wordings()["needs_more"]
  parts = [part for part in parts if part not in side] or parts
  if not parts:
    return None
  parts = parts[-3:]
  numbers = [_number(part.split()[-1]) for part in parts]
  if numbers[-1] is None:
    return None
  if numbers[-1] == "topic":
    return _kind(f"something for {listed(parts)}{rest}", "topic")
  number = numbers[-1]
  if {"set", "mass"} & set(numbers) and len(parts) > 1:
    number = "set"
  # Without an s of its own a part narrows the next: acoustic & bass guitars.
  narrows = [
    of != "mass" and _of_head(part, _singular) == part
    for of, part in zip(numbers, parts, strict=True)
  ]
  singular = parts
  if number == "count":
    singular = [_of_head(part, _singular) for part in parts]
    parts = [*parts[:-1], _of_head(parts[-1], _plural)]
  return Kind(
    _grouped(singular, narrows, "or") + rest,
    number,
    _grouped(parts, narrows, "and") + rest,
  )


def _grouped(parts: Sequence[str], narrows: Sequence[bool], by: str) -> str:
  """Lists parts, after those that narrow them; the last narrows nothing."""
  groups, pending = [], []
  for part, is_narrowing in zip(parts, [*narrows[:-1], False], strict=True):
    pending.append(part)
    if not is_narrowing:
      groups.append(listed(pending, by=by))
      pending = []
  return listed(groups, by=by)


def _is_name(label: str) -> bool:
  names = tuple(f"{name} " for name in wordings()["names"])
  return f"{label.lower()} ".startswith(names)


def _number(word: str) -> str | None:
  """Returns the number of a last word; None for an adjective."""
  words = wordings()
  if not word.islower():
    return "count"
  if word in words["mass"]:
    return "mass"
  if word in words["sets"]:
    return "set"
  if _ADJECTIVE.search(word):
    return None
  return "topic" if _TOPIC.search(word) else "count"


def _lowered(text: str) -> str:
  """Puts words in lower case but those of names, such as PlayStation."""
  capitals = wordings()["capitals"]
  return " ".join(
    word
    if word.lower() in capitals or re.search(r"\d|[A-Za-z][A-Z]", word)
    else word.lower()
    for word in text.split()
  )


def _of_head(part: str, change: Callable[[str], str]) -> str:
  *others, head = part.split()
  return " ".join((*others, change(head)))


def _plural(word: str) -> str:
  if not word.islower():
    return word if word.endswith("s") else f"{word}s"
  if word in wordings()["same"] or re.search(r"[^sui]s$", word):
    return word
  if re.search(r"[^aeiou]y$", word):
    return f"{word[:-1]}ies"
  return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")


def _singular(word: str) -> str:
  if not word.islower() or word in wordings()["same"]:
    return word
  if not re.search(r"[^sui]s$", word):
    return word
  if re.search(r"\w{2}ies$", word) and word not in (
    "movies",
    "cookies",
    "talkies",
  ):
    return f"{word[:-3]}y"
  return re.sub(r"(?<=ss|ch|sh)e?s$|(?<=x)es$|s$", "", word, count=1)
