"""Titles and category labels, cleaned as the model reads them.

Titles are plain text that T5's vocabulary can encode. Labels are joined into
the paper's specific intentions (I2, section 2.2.1). Amazon's lists begin with
the department that all items share and, since 2018, may go on with markup and
then with the item's selling points.
"""

import collections
import functools
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from instructrec_jax.records import Item

# Attributes tell a tag that is never closed, as where a page was cut, from a
# sign for "less than".
_TAG = re.compile(
  r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>"
  r"|<[A-Za-z][^<>\s]*\s[^<>=]*=[^<>]*",
  re.DOTALL,
)
_ONE_UNCLOSED_TAG = re.compile(r"\s*</?[A-Za-z][^<>]*")
# Unicode's default ignorables: of no width, in names to look at the same.
_INVISIBLE = re.compile(
  "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
  "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
  "\U000e0000-\U000e0fff]"
)
# T5's vocabulary has none of these (it has `>`, which only ever pairs with
# `<`). A tilde stands for a dash or for "about": neither is worth a sign.
_UNPRINTABLE_IN_T5 = str.maketrans("{}<>~^\\`", "()    /'")
# Some titles of the 2018 crawl are the page's script instead.
_SCRIPT = re.compile(r"\bgetTime\b|\bfunction\s*\w*\s*\([^)]*\)\s*\{")
# Of Amazon's own labels the longest have some 45 characters.
_MAX_CHARACTERS = 60
# Ends the categories of a 2018 item; selling points follow.
_END = re.compile(r"\s*</")
_SENTENCE = re.compile(r"\S+\s+\S+\s.*[.!?]")
# A label that so many of the labelled items have tells none of them apart.
_ROOT_SHARE = 0.95


def clean_title(title: str) -> str:
  """Returns a title on one line, without markup; "" if nothing is left.

  HTML entities are unescaped (as often as they were escaped), tags and
  characters of no width removed, characters composed (NFC), signs that T5's
  vocabulary lacks replaced, white space collapsed. A title of tags, or of one
  that is never closed, leaves nothing. Cleaning twice changes nothing.
  """
  while not title.isascii() or "&" in title:
    plain = _INVISIBLE.sub("", html.unescape(title))
    plain = unicodedata.normalize("NFC", plain)
    if plain == title:
      break
    title = plain
  if _SCRIPT.search(title):
    return ""
  if "<" in title:
    title = _TAG.sub(" ", title)
    if _ONE_UNCLOSED_TAG.fullmatch(title):
      return ""
  title = title.translate(_UNPRINTABLE_IN_T5)
  if not title.isprintable():
    # Control characters, lone surrogates.
    title = "".join(c if c.isprintable() else " " for c in title)
  title = " ".join(title.split())
  return title if any(map(str.isalnum, title)) else ""


def title_notes(titles: Sequence[str]) -> list[str]:
  """Returns what people should know of clean titles that items share."""
  notes = []
  counts = collections.Counter(titles)
  ((title, most),) = counts.most_common(1)
  if most > 1:
    shared = sum(n for n in counts.values() if n > 1)
    notes.append(
      f"{shared:,} of {len(titles):,} items share their title with another "
      f"({most:,} are called {title!r:.80}): the model reads titles alone, so "
      "they tie in every ranking, are one answer of a search and never each "
      "other's negatives; put into their titles what sets them apart."
    )
  alike: dict[str, list[str]] = {}
  for title in counts:
    key = unicodedata.normalize("NFKC", title).casefold().replace(" ", "")
    alike.setdefault(key, []).append(title)
  if twins := [group for group in alike.values() if len(group) > 1]:
    one, other, *_ = twins[0]
    notes.append(
      f"{sum(map(len, twins)):,} titles differ from another one in case, "
      f"spaces or width alone, such as {one!r:.80} and {other!r:.80}: if they "
      "are of one item, give it one id and one title."
    )
  return notes


def clean_categories(categories: Iterable[Any]) -> tuple[str, ...]:
  """Returns labels cleaned like titles, flat, each once.

  Left out: what follows a closing tag such as `</span>`, whole sentences, and
  what is too long for a label. Cleaning twice changes nothing.

  Args:
    categories: labels, or Amazon 2014's list of paths; other values go.
  """
  labels: dict[str, str] = {}
  for entry in categories:
    if isinstance(entry, list | tuple):
      for label in clean_categories(entry):
        labels.setdefault(label.casefold(), label)
    elif isinstance(entry, str):
      if _END.match(entry):
        break
      label = clean_title(entry)
      if 0 < len(label) <= _MAX_CHARACTERS and not _SENTENCE.fullmatch(label):
        labels.setdefault(label.casefold(), label)
  return tuple(labels.values())


@functools.lru_cache(maxsize=1 << 16)
def _clean_once(categories: tuple[str, ...]) -> tuple[str, ...]:
  """Returns `clean_categories` of what many items share."""
  return clean_categories(categories)


def root_categories(items: Sequence[Item]) -> frozenset[str]:
  """Returns the labels that (nearly) all labelled items share."""
  labels = [_clean_once(item.categories) for item in items]
  labelled = sum(map(bool, labels))
  counts = collections.Counter(label for own in labels for label in own)
  return frozenset(
    label for label, n in counts.items() if n >= max(_ROOT_SHARE * labelled, 2)
  )


def category_labels(items: Sequence[Item]) -> list[tuple[str, ...]]:
  """Returns each item's clean labels without the catalogue's roots."""
  roots = root_categories(items)
  return [
    tuple(c for c in _clean_once(item.categories) if c not in roots)
    for item in items
  ]


def specific_intentions(items: Sequence[Item]) -> list[str]:
  """Returns each item's labels as one intention; "" if it has none."""
  return [", ".join(labels) for labels in category_labels(items)]
