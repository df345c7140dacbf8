"""Does what was said hold? Made-up shoppers converse with a model.

  python benchmarks/dialogues.py --model runs/quickstart/model \
    --dataset runs/quickstart/shop

Printed: of so many dialogues of 3 to 6 turns, in how many all that was said
holds for each of the last turn's top 5 (or as many as the shop has such titles,
if these are fewer); in how many each title of it holds or is said to come near
only; and how many titles that were refused came back.
"""

import argparse
import pathlib
import time

import numpy as np

from instructrec_jax.instructions.conversation import Turn
from instructrec_jax.instructions.dialogues import Shopper
from instructrec_jax.serving.recommender import Recommender


def main() -> None:
  """Prints the shares."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--dialogues", type=int, default=300)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--show", type=int, default=0, help="print so many")
  options = parser.parse_args()
  recommender = Recommender.load(options.model, dataset=options.dataset)
  holds, all_five, told, milliseconds = [], [], [], []
  returned = turns_in_all = 0
  for number in range(options.dialogues):
    shopper, turns = Shopper(options.seed + number), []
    shown: tuple[str, ...] = ()
    while shopper.left:
      words = shopper.says(shown)
      start = time.perf_counter()
      reply = recommender.converse([*turns, Turn(words)], k=5)
      milliseconds.append(1e3 * (time.perf_counter() - start))
      shown = reply.shown
      turns.append(Turn(words, shown))
      returned += len({*shopper.refused} & {*shown})
    gone = {*reply.need.liked, *reply.need.chosen}
    fit = sum(map(shopper.holds, {*recommender.titles} - gone))
    best = shown[: min(5, fit)]
    holds.append(all(map(shopper.holds, best)))
    all_five.append(all(map(shopper.holds, shown)))
    told.append(all(shopper.holds(t) or t in reply.near for t in shown))
    turns_in_all += len(turns)
    if number < options.show:
      for turn in turns:
        print(f"> {turn.words}\n    {'; '.join(turn.shown)}")
      print("holds" if holds[-1] else "DOES NOT HOLD", "\n")
  print(
    f"{options.dialogues} dialogues, {turns_in_all} turns: all holds in "
    f"{np.mean(holds):.1%}, for all five shown in {np.mean(all_five):.1%}, "
    f"where it does not that is said in all but {1 - np.mean(told):.1%}; "
    f"{returned} refused titles came back; "
    f"{np.median(milliseconds):.0f} ms a turn"
  )


if __name__ == "__main__":
  main()
