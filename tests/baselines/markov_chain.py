"""A shop whose shoppers mostly buy what follows what they bought."""

import types

import numpy as np

from instructrec_jax.baselines.popularity import PopularityRanker
from instructrec_jax.baselines.sequential import SequenceOptions, TrainerOptions
from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.records import RankingRequest

ITEMS = 30


def chain_folder(path, *, users=300, seed=0):
  """A dataset folder without files; i + 1 follows i in nine of ten cases."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(5, 12, users)
  items = []
  for length in lengths:
    # Low numbers are bought more often, so popularity knows something.
    item = int(ITEMS * rng.random() ** 2)
    for _ in range(length):
      items.append(item)
      follows = rng.random() < 0.9
      item = (item + 1) % ITEMS if follows else int(rng.integers(ITEMS))
  return folder_of(
    path,
    Sequences(
      items=np.array(items, np.int32), offsets=np.cumsum([0, *lengths])
    ),
  )


def folder_of(path, sequences):
  """A dataset folder with these sequences."""
  return types.SimpleNamespace(
    path=path,
    items=[types.SimpleNamespace(title=f"Item {n}") for n in range(ITEMS)],
    sequences=sequences,
    splits=leave_one_out(sequences),
  )


def changed(folder, user, position, item):
  """The folder, where one user bought another item at one position."""
  items = folder.sequences.items.copy()
  items[folder.sequences.offsets[user] + position] = item
  return folder_of(folder.path, Sequences(items, folder.sequences.offsets))


def request(history, candidates=range(ITEMS)):
  """A request without words; its target follows the history's last item."""
  candidates = tuple(candidates)
  return RankingRequest(
    "r",
    "",
    ("",) * len(candidates),
    history_items=tuple(history),
    candidate_items=candidates,
  )


def hit_rates(folder, ranker):
  """HR@1 over the whole catalogue: the ranker's, and popularity's."""
  sequences, test = folder.sequences, folder.splits.test
  wanted = test.items(sequences)
  requests = [
    request(sequences.user(user)[:-1].tolist()) for user in test.users
  ]
  popularity = PopularityRanker.fit(
    sequences, num_items=ITEMS, splits=folder.splits
  )
  return [
    ranking_metrics(r.score(requests), wanted)["hr@1"].mean()
    for r in (ranker, popularity)
  ]


def quick(**changes):
  """Options with which the chain is learnt in seconds."""
  wanted = {"learning_rate": 0.01, "tokens_per_step": 600, "max_epochs": 40}
  return TrainerOptions(**wanted | changes)


def small(**training):
  """Options of a small model; all tests have one size, so one compilation."""
  return SequenceOptions(
    width=16, layers=1, dropout=0.1, training=quick(**training)
  )
