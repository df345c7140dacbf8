"""Words that titles have, asked for alone: does the model find such titles?

  python benchmarks/title_words.py --dataset shop --model model [--words 80]
    [--titles 1 2]

People type a maker, a series or a material ("lego", "solar"). Of the words that
3 to 60 titles share (--titles names other numbers), so many are drawn, and each
is asked for in wordings that training does not have, of the whole catalogue.
Counted are wishes whose first title has the word (P@1), and titles of the first
five that have it, of as many as could (P@5). A search that matches words has 1
and 1, or less where items share a title, which is one answer.
"""

import argparse
import collections
import pathlib
import random
import re
from collections.abc import Sequence

import instructrec_jax as ir
from instructrec_jax.data.folder import DatasetFolder

WORDINGS = ("{word} please", "looking for {word}", "got any {word}?")
SHOWN = 5
_WORD = re.compile(r"[a-z]{3,}")
_LITTLE = frozenset(
  "and the for with from not all new set one two our your pack inch of".split()
)


def main() -> None:
  """Asks, and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--words", type=int, default=80)
  parser.add_argument("--titles", type=int, nargs=2, default=(3, 60))
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  least, most = args.titles
  folder = DatasetFolder.open(args.dataset)
  counts = collections.Counter(
    word for item in folder.items for word in _words(item.title)
  )
  shared = sorted(
    word
    for word, count in counts.items()
    if least <= count <= most and word not in _LITTLE
  )
  if not shared:
    parser.error(f"{args.dataset}: no word is in {least} to {most} titles.")
  words = random.Random(args.seed).sample(shared, min(args.words, len(shared)))
  recommender = ir.Recommender.load(args.model, dataset=args.dataset)
  print(f"{len(words)} of {len(shared)} words, of {len(folder.items)} titles\n")
  print("| wording | P@1 | P@5 |\n| --- | ---: | ---: |")
  for wording in WORDINGS:
    found = recommender.recommend_many(
      [wording.format(word=word) for word in words], k=SHOWN
    )
    told = [answer.to_polars()["title"].to_list() for answer in found]
    _print(wording, words, told, counts)


def _words(title: str) -> set[str]:
  return {*_WORD.findall(title.lower())}


def _print(
  name: str,
  words: Sequence[str],
  told: Sequence[Sequence[str]],
  counts: collections.Counter[str],
) -> None:
  has = [
    [word in _words(title) for title in titles]
    for word, titles in zip(words, told, strict=True)
  ]
  first = sum(own[0] for own in has) / len(words)
  five = sum(
    sum(own) / min(SHOWN, counts[word])
    for word, own in zip(words, has, strict=True)
  )
  print(f"| {name} | {first:.3f} | {five / len(words):.3f} |")


if __name__ == "__main__":
  main()
