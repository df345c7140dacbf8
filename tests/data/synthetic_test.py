"""Tests for instructrec_jax/data/synthetic.py."""

import collections

import numpy as np

from instructrec_jax.data import synthetic


def purchases(shop):
  number = {item.item_id: row for row, item in enumerate(shop.items)}
  bought = collections.defaultdict(list)
  for review in shop.reviews:
    bought[review.user_id].append((review.timestamp, number[review.item_id]))
  return bought


def test_the_same_seed_makes_the_same_shop():
  first = synthetic.synthetic_shop(users=20, seed=3)
  assert first == synthetic.synthetic_shop(users=20, seed=3)
  assert first.reviews != synthetic.synthetic_shop(users=20, seed=4).reviews


def test_nobody_buys_twice_and_time_moves_on():
  for rows in purchases(synthetic.synthetic_shop(users=50, seed=0)).values():
    times, items = zip(*rows, strict=True)
    assert 6 <= len(items) <= 12
    assert len(set(items)) == len(items)
    assert list(times) == sorted(set(times))


def test_the_process_is_a_distribution_for_every_taste():
  shop = synthetic.synthetic_shop(users=1, seed=0)
  process = synthetic.PurchaseProcess(
    synthetic.Habits(), np.array(list(shop.planted["attributes"].values()))
  )
  assert np.isclose(process.prior_T.sum(), 1)
  for last in (None, 0, len(shop.items) - 1):
    np.testing.assert_allclose(process.next_TxI(last).sum(1), 1)


def test_purchases_follow_the_planted_habits():
  habits = synthetic.Habits()
  shop = synthetic.synthetic_shop(users=600, seed=0)
  attributes = np.array(list(shop.planted["attributes"].values()))
  followed, pairs = 0, 0
  for rows in purchases(shop).values():
    kinds = attributes[[item for _, item in rows], 1]
    followed += np.sum(np.diff(kinds) % len(synthetic.KINDS) == 1)
    pairs += len(kinds) - 1
  # Leaving out what is owned moves the share by little.
  expected = habits.next_kind + (1 - habits.next_kind) / len(synthetic.KINDS)
  assert abs(followed / pairs - expected) < 0.03


def test_every_review_names_the_kind_but_not_the_title():
  shop = synthetic.synthetic_shop(users=30, seed=0)
  titles = {item.item_id: item.title for item in shop.items}
  for review in shop.reviews:
    title = titles[review.item_id]
    assert title.split()[1].lower() in review.text
    assert title not in review.text
