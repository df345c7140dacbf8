"""A shop of brands and kinds, whose shoppers keep to a brand."""

import types

import numpy as np

from instructrec_jax.baselines.searches import Searches
from instructrec_jax.baselines.tower_ranker import TowerOptions
from instructrec_jax.baselines.trainer import FitOptions
from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.records import RankingRequest

BRANDS = "Alder Borea Corvo Delta Ember Fjord".split()
KINDS = "tent rope kayak stove lantern helmet pump".split()
# What people call them: no title has these words.
WISHES = "shelter climbing paddling cooking light safety air".split()
TITLES = [f"{brand} {kind}" for brand in BRANDS for kind in KINDS]
EVERY = range(len(TITLES))
OPTIONS = TowerOptions(
  width=16,
  dropout=0.1,
  history=4,
  batch=64,
  training=FitOptions(learning_rate=0.01, max_epochs=30, patience=6),
)


def shelf_folder(path, *, users=120, seed=0):
  """A dataset folder without files: each user buys of one brand."""
  rng = np.random.default_rng(seed)
  items = [
    len(KINDS) * int(rng.integers(len(BRANDS)))
    + rng.choice(len(KINDS), 5, replace=False)
    for _ in range(users)
  ]
  sequences = Sequences(
    items=np.concatenate(items).astype(np.int32),
    offsets=np.arange(users + 1) * 5,
  )
  return types.SimpleNamespace(
    path=path,
    items=[types.SimpleNamespace(title=title) for title in TITLES],
    sequences=sequences,
    splits=leave_one_out(sequences),
  )


def searches(folder, targets):
  """Each target, searched for by the wish of its kind."""
  found = Searches.of_targets(targets, folder.sequences)
  queries = [WISHES[item % len(KINDS)] for item in found.items]
  return Searches(found.users, found.positions, queries, found.items)


def fitted(ranker, folder, **changes):
  """A ranker that has learned the shop's searches."""
  splits = folder.splits
  return ranker.fit_searches(
    folder,
    training=searches(folder, splits.training),
    validation=searches(folder, splits.validation),
    options=changes.pop("options", OPTIONS),
  )


def request(query, history=(), *, user=None, candidates=EVERY):
  """A request for what a wish names."""
  candidates = tuple(candidates)
  return RankingRequest(
    "r",
    "",
    tuple(TITLES[item] for item in candidates),
    user=user,
    query=query,
    history_items=tuple(history),
    candidate_items=candidates,
  )


def hit_rate(folder, ranker):
  """HR@1 of test targets in the whole catalogue."""
  test = searches(folder, folder.splits.test)
  requests = [
    request(query, folder.sequences.user(user)[:-1].tolist(), user=int(user))
    for user, query in zip(test.users, test.queries, strict=True)
  ]
  best = [int(scores.argmax()) for scores in ranker.score(requests)]
  return float(np.mean(best == test.items))
