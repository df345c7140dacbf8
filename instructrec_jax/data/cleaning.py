"""Titles as the model sees them: plain text that T5's vocabulary can print."""

import html
import re

_TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)
# T5's vocabulary has none of these (it has `>`, which only ever pairs with
# `<`). A tilde stands for a dash or for "about": neither is worth a sign.
_UNPRINTABLE_IN_T5 = str.maketrans("{}<>~^\\`", "()    /'")
# Some titles of the 2018 crawl are the page's script instead.
_SCRIPT = re.compile(r"\bgetTime\b|\bfunction\s*\w*\s*\([^)]*\)\s*\{")


def clean_title(title: str) -> str:
  """Returns a title on one line, without markup; "" if nothing is left.

  HTML entities are unescaped (as often as they were escaped), tags removed,
  signs that T5's vocabulary lacks replaced, white space collapsed. Cleaning
  twice changes nothing.
  """
  if _SCRIPT.search(title):
    return ""
  title = _without_entities(title)
  title = _TAG.sub(" ", title).translate(_UNPRINTABLE_IN_T5)
  if not title.isprintable():
    # Control characters, zero-width ones, lone surrogates.
    title = "".join(c if c.isprintable() else " " for c in title)
  title = " ".join(title.split())
  return title if any(map(str.isalnum, title)) else ""


def _without_entities(text: str) -> str:
  while "&" in text and (unescaped := html.unescape(text)) != text:
    text = unescaped
  return text
