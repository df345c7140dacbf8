"""Tests for instructrec_jax/data/prepare.py."""

import hashlib
import json
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

from instructrec_jax import storage
from instructrec_jax.data import (
  cleaning,
  held_out,
  review_store,
  synthetic,
  tables,
)
from instructrec_jax.data.folder import (
  ANNOTATIONS_FILE,
  BATCHES_FILE,
  CHAT_RANKINGS_FILE,
  DatasetFolder,
)
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError


def table(folder, name, header, rows):
  path = folder / f"{name}.csv"
  lines = [header, *(",".join(map(str, row)) for row in rows)]
  path.write_text("\n".join(lines) + "\n")
  return path


def csv_options(folder, interactions, items):
  return {
    "format": "csv",
    "interactions": table(
      folder, "interactions", "user_id,item_id,timestamp", interactions
    ),
    "items": table(folder, "items", "item_id,title", items),
  }


def shop_of(users, num_items):
  """Interactions of users with item lists, at rising times."""
  rows = [(u, i, t) for u, own in users.items() for t, i in enumerate(own)]
  return rows, [(i, f"Title {i}") for i in range(num_items)]


def by_hash(user, *items, seed=0):
  return sorted(
    items,
    key=lambda item: hashlib.sha256(
      f"{seed}\0{user}\0{item}".encode()
    ).hexdigest()[:16],
  )


def item_ids(folder, user):
  return [
    folder.items[item].item_id for item in folder.sequences.user(user).tolist()
  ]


# From data/README.md: users, items, interactions before and after the cut.
REAL = {
  "musical_instruments_2014": (
    {
      "format": "amazon2014",
      "reviews": "reviews_Musical_Instruments_5.json.gz",
      "metadata": "meta_Musical_Instruments.json.gz",
    },
    (1_429, 900, 10_261, 10_093, 7.06),
  ),
  "gift_cards_2018": (
    {
      "format": "amazon2018",
      "reviews": "Gift_Cards_5.json.gz",
      "metadata": "meta_Gift_Cards.json.gz",
    },
    (453, 147, 2_941, 2_920, 6.45),
  ),
  "games_2018": (
    {
      "format": "csv",
      "interactions": "interactions.csv.gz",
      "items": "items.csv.gz",
      "min_count": 0,
    },
    (50_546, 16_859, 440_264, 410_907, 8.13),
  ),
  "toys_2014": (
    {
      "format": "csv",
      "interactions": "interactions.csv.gz",
      "items": "items.csv.gz",
    },
    (19_412, 11_924, 167_597, 153_818, 7.92),
  ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_data_has_its_published_counts(shared, tmp_path, name):
  options, (users, items, before, after, length) = REAL[name]
  source = shared / "data" / name
  options = {
    k: source / v if str(v).endswith(".gz") else v for k, v in options.items()
  }
  statistics = prepare(out=tmp_path / name, **options).statistics
  assert statistics["users"] == users
  assert statistics["items"] == items
  assert statistics["interactions_before_cut"] == before
  assert statistics["interactions"] == after
  assert round(statistics["average_length"], 2) == length
  assert statistics["sparsity"] == pytest.approx(1 - after / (users * items))
  if name == "games_2018":
    assert statistics["items_without_category"] == 855
    assert statistics["training_targets"] == 259_269


def test_raw_counts_of_gift_cards_are_in_the_manifest(shared, tmp_path):
  source = shared / "data" / "gift_cards_2018"
  manifest = prepare(
    out=tmp_path / "gift",
    format="amazon2018",
    reviews=source / "Gift_Cards_5.json.gz",
    metadata=source / "meta_Gift_Cards.json.gz",
  ).manifest
  assert manifest["counts"] == {
    "items": {"read": 1547, "without_title": 0, "repeated": 0},
    "reviews": 2972,
    "of_items_without_title": 0,
    "repeats": 7,
    "k_core_rounds": [2949, 2941],
    "below_k_core": 24,
    "of_new_users_or_items": 0,
    "before_last_items": 21,
  }


@pytest.mark.parametrize(
  ("name", "share"),
  [("musical_instruments_2014", 0.4), ("gift_cards_2018", 0.6)],
)
def test_equal_times_do_not_tell_the_target(shared, tmp_path, name, share):
  """The file lists them by rising item id, and new items have high ids."""
  options, _ = REAL[name]
  source = shared / "data" / name
  options = {
    k: source / v if str(v).endswith(".gz") else v for k, v in options.items()
  }
  tied, hit = [], []
  for seed in range(3):
    folder = prepare(out=tmp_path / str(seed), seed=seed, **options)
    ties = folder.manifest["ties"]
    assert ties["order"] == "by the SHA-256 of seed, user and item"
    ids = np.array([item.item_id for item in folder.items])
    for split in ("validation", "test"):
      stored = folder.candidates(split, 9)
      places = folder.sequences.offsets[stored.keys]
      places = places + getattr(folder.splits, split).positions
      times = folder.timestamps
      tied.append(times[places] == times[places - 1])
      if split == "validation":
        tied[-1] = tied[-1] | (times[places] == times[places + 1])
      hit.append(ids[stored.candidates].argmax(axis=1) == stored.target)
      assert ties[split] == folder.tied_share(split) == tied[-1].mean()
      assert ties[split] > share
  tied, hit = np.concatenate(tied), np.concatenate(hit)
  difference = hit[tied].mean() - hit[~tied].mean()
  # The seeds share most of their targets, so their number adds no certainty.
  error = np.sqrt(
    sum(hit[part].var() / (part.sum() / 3) for part in (tied, ~tied))
  )
  assert difference < 1.96 * error


def test_steps_come_in_order(tmp_path):
  # Time, not input order, decides; item 9 has no title; item 1 is repeated.
  interactions = [
    ("b", 2, 5),
    ("a", 3, 9),
    ("a", 1, 1),
    ("a", 9, 2),
    ("a", 1, 3),
    ("a", 2, 2),
    ("a", 0, 2),
    ("b", 1, 5),
    ("b", 4, 1),
    ("b", 3, 7),
  ]
  items = [*((i, f"T{i}") for i in range(5)), (9, "<br>"), (2, "again")]
  folder = prepare(
    out=tmp_path / "out",
    **csv_options(tmp_path, interactions, items),
    min_count=0,
    max_items=3,
  )
  users = folder.interactions["user_id"].unique(maintain_order=True).to_list()
  assert users == ["b", "a"]
  # Of equal times, the hash that the documentation names decides.
  assert item_ids(folder, 0) == [*by_hash("b", "1", "2"), "3"]
  assert item_ids(folder, 1) == [*by_hash("a", "0", "2"), "3"]
  assert folder.owned.user(1).tolist()[:1] == [1]
  assert [item.title for item in folder.items] == [f"T{i}" for i in range(5)]
  counts = folder.manifest["counts"]
  assert counts["of_items_without_title"] == counts["repeats"] == 1
  assert counts["items"] == {"read": 7, "without_title": 1, "repeated": 1}
  assert counts["before_last_items"] == 2


DAY = 86_400
DATES = {"validation_from": "1970-03-12", "test_from": "1970-03-22"}


def days_of_a_shop(later=()):
  """Purchases of 70 days by 30 users, and later ones."""
  rng = np.random.default_rng(0)
  rows = [
    (f"u{user}", item, DAY * int(day) + user)
    for user in range(30)
    for item, day in zip(
      rng.permutation(20)[:9], rng.integers(1, 70, 9), strict=True
    )
  ]
  return [*rows, *later], [(i, f"Title {i}") for i in range(40)]


# Of users and items that would be of the core with these, but are new.
LATER = [(f"n{u}", 20 + i, DAY * (70 + i)) for u in range(9) for i in range(18)]
LATER += [(f"u{u}", i, DAY * (70 + i)) for u in range(30) for i in range(20)]


@pytest.mark.parametrize("max_items", [3, 20])
def test_what_trains_knows_nothing_of_what_comes_later(tmp_path, max_items):
  """Neither the k-core nor the last items are of the whole timeline."""
  trained = []
  for later in ([], LATER):
    folder = prepare(
      out=tmp_path / f"out{len(later)}",
      **csv_options(tmp_path, *days_of_a_shop(later)),
      split="global-time",
      max_items=max_items,
      **({"validation_from": "1970-03-01", "test_from": "1970-03-06"}),
    )
    mask = folder.splits.training_mask(folder.sequences)
    frame = folder.interactions.filter(mask)
    ids = [item.item_id for item in folder.items]
    trained.append((ids, frame.drop("item").rows()))
    held_out = folder.interactions.filter(~mask)["timestamp"]
    assert frame["timestamp"].max() < 59 * DAY <= held_out.min()
    assert folder.splits.training_lengths.max() <= max_items
    options = folder.manifest["options"]
    assert options["validation_from"] == "1970-03-01T00:00:00+00:00"
  assert trained[0] == trained[1]
  new = folder.manifest["counts"]["of_new_users_or_items"]
  assert new >= 9 * 18


def test_moments_are_those_that_are_named(tmp_path):
  options = csv_options(tmp_path, *days_of_a_shop(LATER))
  folder = prepare(
    out=tmp_path / "out", **options, split="global-time", **DATES
  )
  times, splits = folder.timestamps, folder.splits
  for name, first, end in (
    ("validation", 70, 80),
    ("test", 80, 1000),
  ):
    targets = getattr(splits, name)
    own = times[folder.sequences.offsets[targets.users] + targets.positions]
    assert ((first * DAY <= own) & (own < end * DAY)).all()
  assert len(splits.test.users) == 30
  had = {row[:2] for row in days_of_a_shop()[0]}
  new = [r for r in LATER if r[2] < 80 * DAY and r[0][0] == "u"]
  count = sum(row[:2] not in had for row in new)
  assert folder.manifest["notes"][0].startswith(f"of {count} interactions of")


@pytest.mark.parametrize(
  ("change", "why"),
  [
    ({"validation_from": "soon"}, "a date such as 2021-08-11, or a date and"),
    ({"validation_from": "1960-01-01"}, "it is before 1970"),
    ({"test_from": "2030-01-01"}, "the test split is left without a target"),
    (
      {"validation_from": "1970-01-01"},
      r"none of the \d+ interactions trains: the first is of 1970-",
    ),
  ],
)
def test_moments_that_split_nothing(tmp_path, change, why):
  options = csv_options(tmp_path, *days_of_a_shop(LATER))
  with pytest.raises(InputError, match=why):
    prepare(
      out=tmp_path / "out", **options, split="global-time", **DATES | change
    )
  assert not (tmp_path / "out").exists()


def test_items_that_fall_to_the_last_cut_stay_in_the_catalogue(tmp_path):
  rows, items = shop_of({"u": [0, 1, 2, 3], "v": [0, 3, 2, 1]}, 6)
  folder = prepare(
    out=tmp_path / "out",
    **csv_options(tmp_path, rows, items),
    min_count=2,
    max_items=3,
  )
  assert 0 not in folder.sequences.items
  # Items 4 and 5 were never bought.
  assert [item.item_id for item in folder.items] == ["0", "1", "2", "3"]


def test_pictures_stand_apart_where_there_are_any(tmp_path):
  rows, items = shop_of({"u": [0, 1, 2, 3], "v": [3, 2, 1, 0]}, 4)
  options = csv_options(tmp_path, rows, items) | {"min_count": 0}
  plain = prepare(out=tmp_path / "plain", **options)
  options["items"] = table(
    tmp_path,
    "pictures",
    "photo,item_id,title",
    [(f"https://a.example/{i}" if i % 2 else "", i, t) for i, t in items],
  )
  columns = tables.Columns(image="photo")
  found = prepare(out=tmp_path / "found", columns=columns, **options)
  ids = {found.items[n].item_id: image for n, image in found.images.items()}
  assert ids == {n: f"https://a.example/{n}" for n in ("1", "3")}
  assert plain.images == {} and not (plain.path / "images.parquet").exists()
  for name in ("items.parquet", "interactions.parquet"):
    assert (plain.path / name).read_bytes() == (found.path / name).read_bytes()


def test_users_too_short_to_split_only_train(tmp_path):
  rows, items = shop_of({"u": [0, 1], "v": [2], "w": [3, 4, 5]}, 6)
  folder = prepare(
    out=tmp_path / "out", **csv_options(tmp_path, rows, items), min_count=0
  )
  assert folder.statistics["users"] == 3
  assert folder.statistics["test_users"] == 1
  assert folder.statistics["training_targets"] == 1


def test_a_small_catalogue_has_no_file_of_99_but_says_so(tmp_path):
  users = {f"u{n}": [(n + k) % 20 for k in range(6)] for n in range(20)}
  folder = prepare(
    out=tmp_path / "out", **csv_options(tmp_path, *shop_of(users, 20))
  )
  assert set(folder.manifest["candidates"]) == {"test_9", "validation_9"}
  notes = folder.manifest["notes"]
  # In validation a user's last item is not known, and may be drawn.
  assert "only 15 to draw 99 negatives from" in notes[0]
  assert "only 14 to draw 99 negatives from" in notes[1]
  with pytest.raises(InputError, match="has test_9, validation_9"):
    folder.candidates("test", 99)


def test_items_without_categories_are_counted_and_not_searched(tmp_path):
  users = {f"u{n}": [(n + k) % 40 for k in range(6)] for n in range(40)}
  options = csv_options(tmp_path, *shop_of(users, 40))
  titles = [f"{i},Title {i},{'Shop|A' if i % 2 else 'Shop'}" for i in range(40)]
  options["items"].write_text("\n".join(["item_id,title,categories", *titles]))
  folder = prepare(out=tmp_path / "out", **options)
  assert folder.statistics["items_without_category"] == 20
  own_items = [
    np.flatnonzero(folder.item_split == number).tolist() for number in (1, 2)
  ]
  assert list(map(len, own_items)) == [4, 4]
  for split, own in zip(("validation", "test"), own_items, strict=True):
    searched = folder.candidates(split, 9, "items").keys.tolist()
    assert searched == [i for i in own if int(folder.items[i].item_id) % 2]
  lost = [sum(not i % 2 for i in own) for own in own_items]
  assert folder.manifest["notes"][-1] == (
    f"product search leaves out {lost[0]} validation and {lost[1]} test "
    "items, which have no categories."
  )


def test_no_file_of_candidates_depends_on_another(tmp_path, monkeypatch):
  options = {"format": "synthetic", "users": 300}
  every = prepare(out=tmp_path / "every", **options).manifest["candidates"]
  assert len(every) == 8
  assert len(set(every.values())) == 8
  monkeypatch.setattr(held_out, "NEGATIVES", (99,))
  some = prepare(out=tmp_path / "some", **options).manifest["candidates"]
  assert some == {name: every[name] for name in every if name.endswith("99")}


def test_two_runs_write_the_same_bytes(tmp_path):
  folders = [
    prepare(out=tmp_path / name, format="synthetic", users=300).path
    for name in ("one", "two")
  ]
  hashes = [
    {
      path.relative_to(folder): storage.sha256_of(path)
      for path in sorted(folder.rglob("*.*"))
    }
    for folder in folders
  ]
  assert len(hashes[0]) == 15
  assert hashes[0] == hashes[1]
  other = prepare(out=tmp_path / "b", format="synthetic", users=300, seed=1)
  assert (
    other.manifest["candidates"]
    != json.loads((folders[0] / "manifest.json").read_text())["candidates"]
  )


def test_the_synthetic_shop_keeps_what_was_planted(tmp_path):
  folder = prepare(out=tmp_path / "out", format="synthetic", users=300)
  shop = synthetic.synthetic_shop(users=300, seed=0)
  assert storage.read_json(folder.path / "planted.json") == shop.planted
  texts = {(r.user_id, r.item_id): r.text for r in shop.reviews}
  for row in folder.interactions.head(50).rows(named=True):
    item = folder.items[row["item"]]
    assert row["text"] == texts[row["user_id"], item.item_id]


def test_the_manifest_names_its_inputs(tmp_path):
  options = csv_options(tmp_path, *shop_of({"u": [0, 1, 2]}, 3))
  manifest = prepare(out=tmp_path / "out", **options, min_count=0).manifest
  path = options["items"]
  assert manifest["inputs"]["items"] == {
    "path": str(path),
    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
  }
  assert manifest["options"]["min_count"] == 0
  stored = tmp_path / "out" / "candidates"
  assert manifest["candidates"] == {
    path.stem: storage.sha256_of(path) for path in stored.iterdir()
  }


@pytest.mark.parametrize(
  ("change", "why"),
  [
    ({"min_count": 5}, "nothing is left of 3 interactions after the 5-core"),
    ({"format": "amazon2018"}, "needs --reviews and --metadata, and nothing"),
    ({"format": "synthetic"}, "needs no files, and nothing else"),
    ({"format": "xml"}, "no format 'xml'"),
    ({"items": None}, "needs --interactions and --items"),
    ({"max_items": 2}, "a split needs 3"),
    ({"split": "by-user"}, "name leave-one-out or global-time or official"),
    ({"split": "global-time"}, "look like positions"),
    ({"split": "official"}, "need each other"),
    ({"validation_from": "2020-01-01"}, "are of --split global-time"),
    (
      {"split": "global-time", "test_from": "2020-01-01"},
      "--validation-from and --test-from need each other",
    ),
    (
      {
        "split": "global-time",
        "validation_from": "2020-01-01",
        "test_from": "2020-01-01",
      },
      "validation would have no time",
    ),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_what_cannot_be_prepared_leaves_nothing(tmp_path, change, why):
  options = csv_options(tmp_path, *shop_of({"u": [0, 1, 2]}, 3))
  options = options | {"min_count": 0} | change
  before = sorted(tmp_path.iterdir())
  with pytest.raises(InputError, match=why):
    prepare(out=tmp_path / "out", **options)
  assert sorted(tmp_path.iterdir()) == before


def test_files_that_do_not_belong_together(tmp_path):
  options = csv_options(tmp_path, [("u", 1, 1)], [(2, "Title")])
  with pytest.raises(InputError, match="none of the 1 reviews is of an item"):
    prepare(out=tmp_path / "out", **options)


def test_items_of_which_none_has_a_title(tmp_path):
  rows, _ = shop_of({"u": [0, 1, 2]}, 3)
  tags = [(i, f"<span class=a id={i}") for i in range(3)]
  with pytest.raises(
    InputError, match="none of the 3 items has a title, a text"
  ):
    prepare(out=tmp_path / "out", **csv_options(tmp_path, rows, tags))


def test_reviews_of_mostly_unknown_items_are_told(tmp_path):
  rows, items = shop_of({"u": [0, 1, 2, 3, 4, 5, 6, 7]}, 3)
  options = csv_options(tmp_path, rows, items)
  manifest = prepare(out=tmp_path / "out", **options, min_count=0).manifest
  assert manifest["notes"][0].startswith(
    "5 of 8 reviews are of items that have"
  )


def test_titles_that_a_model_cannot_tell_apart_are_told(tmp_path):
  titles = ["Poké", "Poke\u0301", "Po\u200bk\u00e9", "POKÉ", "Po ké", "Tea"]
  rows, _ = shop_of({"u": range(6)}, 6)
  options = csv_options(tmp_path, rows, list(enumerate(titles)))
  folder = prepare(out=tmp_path / "out", **options, min_count=0)
  assert [i.title for i in folder.items] == ["Poké"] * 3 + [
    "POKÉ",
    "Po ké",
    "Tea",
  ]
  shared, twins = folder.manifest["notes"][:2]
  assert shared.startswith("3 of 6 items share their title with another (3 are")
  assert "tie in every ranking" in shared
  assert twins.startswith("3 titles differ from another one in case, spaces")
  assert cleaning.title_notes(["Tea", "Mug"]) == []


def test_one_file_of_amazon_is_not_two_and_one_table_may_be(tmp_path):
  path = tmp_path / "f.json"
  path.write_text('{"asin": "B", "reviewerID": "u", "unixReviewTime": 5}\n')
  link = tmp_path / "link.json"
  link.symlink_to(path)
  with pytest.raises(InputError, match="given as --reviews and as --metadata"):
    prepare(
      out=tmp_path / "out", format="amazon2018", reviews=path, metadata=link
    )
  header = "user_id,item_id,timestamp,title"
  rows = [("u", i, i, f"Title {i}") for i in range(3)]
  wide = table(tmp_path, "wide", header, rows)
  options = {"format": "csv", "interactions": wide, "items": wide}
  folder = prepare(out=tmp_path / "out", **options, min_count=0)
  assert folder.statistics["items"] == 3


def test_files_that_cannot_be_read_are_told_before_any_is_read(tmp_path):
  options = csv_options(tmp_path, *shop_of({"u": [0, 1, 2]}, 3))
  options["items"].write_text("not even read")
  for path, why in (
    (tmp_path / "no.csv", "no such file"),
    (tmp_path, "direct"),
  ):
    with pytest.raises(InputError, match=why):
      prepare(out=tmp_path / "out", **options | {"interactions": path})


def test_the_manifest_counts_what_was_skipped(tmp_path):
  options = csv_options(tmp_path, *shop_of({"u": [0, 1, 2]}, 3))
  with options["interactions"].open("ab") as file:
    file.write(b'u,2,nan\nu,"2,5\ncaf\xe9,2,5\nu,2,5,6\n')
  manifest = prepare(out=tmp_path / "out", **options, min_count=0).manifest
  (told,) = manifest["broken_lines"].values()
  assert told["count"] == 4
  assert [where.split(":")[1] for where in told["first"]] == [
    "5",
    "6",
    "7",
    "8",
  ]
  with pytest.raises(
    InputError, match=r"csv:5: the time nan .*leave out --str"
  ):
    prepare(out=tmp_path / "strict", **options, min_count=0, strict=True)


def test_a_delimiter_is_of_csv(tmp_path):
  columns = tables.Columns(delimiter=";")
  with pytest.raises(InputError, match="--delimiter is of --format csv"):
    prepare(out=tmp_path / "out", format="synthetic", columns=columns)


def test_a_second_run_is_refused_before_it_reads(tmp_path):
  prepare(out=tmp_path / "out", format="synthetic", users=300)
  with pytest.raises(InputError, match="exists already"):
    prepare(out=tmp_path / "out", format="synthetic", users=300)
  again = prepare(
    out=tmp_path / "out", format="synthetic", users=310, force=True
  )
  assert again.manifest["options"]["users"] == 310


@pytest.mark.parametrize(
  "name", [ANNOTATIONS_FILE, BATCHES_FILE, CHAT_RANKINGS_FILE]
)
def test_paid_answers_are_not_replaced(tmp_path, name):
  out = tmp_path / "out"
  prepare(out=out, format="synthetic", users=300)
  (out / name).write_bytes(b"paid")
  before = storage.sha256_of(out / "manifest.json")
  with pytest.raises(InputError, match=rf"holds {name}: .*--export FILE"):
    prepare(out=out, format="synthetic", force=True)
  assert (out / name).read_bytes() == b"paid"
  assert storage.sha256_of(out / "manifest.json") == before


def test_what_somebody_put_into_the_folder_is_not_replaced(tmp_path):
  out = tmp_path / "out"
  options = {"out": out, "format": "synthetic", "users": 300, "force": True}
  prepare(**options)
  (out / "requests").mkdir()
  (out / "requests" / "mine.parquet").write_text("mine")
  manifest = {"options": {"cold_items": "paper", "input_length": 9}}
  manifest |= {"vocabulary_sha256": "", "annotations": {}, "requests": {}}
  (out / "instructions.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match="holds requests/mine.parquet"):
    prepare(**options)
  (out / "requests" / "mine.parquet").rename(out / "mine.parquet")
  with pytest.raises(InputError, match="holds mine.parquet"):
    prepare(**options)
  (out / "mine.parquet").unlink()
  prepare(**options)


def test_only_a_dataset_folder_is_replaced(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  options = {"out": out, "format": "synthetic", "users": 300, "force": True}
  prepare(**options)
  (out / "manifest.json").rename(out / "letters.json")
  with pytest.raises(InputError, match="is not a dataset folder, so --force"):
    prepare(**options)
  assert (out / "letters.json").exists()


@pytest.mark.parametrize("stamp", ["1588687728923", "253402300800.5"])
def test_times_in_milliseconds_are_told_by_their_column(tmp_path, stamp):
  rows, items = shop_of({"u": [0, 1, 2]}, 3)
  options = csv_options(tmp_path, [(u, i, stamp) for u, i, _ in rows], items)
  with pytest.raises(
    InputError, match=rf"the timestamp {stamp} .* divide milliseconds by 1000"
  ):
    prepare(out=tmp_path / "out", **options, min_count=0)


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path):
  out = tmp_path / "shop"
  # Stops for good when all but statistics and manifest is written.
  program = textwrap.dedent(f"""
    import pathlib, time
    from instructrec_jax.data import prepare
    def stop(**_):
      print("stopped", flush=True)
      time.sleep(600)
    prepare.dataset_statistics = stop
    prepare.prepare(
      out=pathlib.Path({str(out)!r}), format="synthetic", users=300
    )
  """)
  process = subprocess.Popen(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout is not None
  assert process.stdout.readline() == "stopped\n"
  process.kill()
  process.wait()
  process.stdout.close()
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {".shop.partial", ".shop.lock"}
  for path in (out, tmp_path / ".shop.partial"):
    with pytest.raises(InputError, match="not a dataset folder"):
      DatasetFolder.open(path)
  prepare(out=out, format="synthetic", users=300)
  assert [path.name for path in tmp_path.iterdir()] == ["shop"]


DIE = """
import os, sys
from instructrec_jax.data import review_store
from instructrec_jax.data.prepare import prepare

name, out, users = sys.argv[1:]
as_it_was = getattr(review_store.ReviewStore, name)

def die(self, *arguments):
  as_it_was(self, *arguments)
  os.kill(os.getpid(), 9)

setattr(review_store.ReviewStore, name, die)
prepare(out=out, format="synthetic", users=int(users))
"""


@pytest.mark.parametrize("name", ["add", "_write", "_piece"])
def test_a_run_that_was_killed_in_a_pass_leaves_no_trace(tmp_path, name):
  """Whole files of the first pass, or rows of the second, are not taken up."""
  whole = prepare(out=tmp_path / "whole", format="synthetic", users=300)
  out = tmp_path / "out"
  for users in ("200", "300"):
    command = [sys.executable, "-c", DIE, name, str(out), users]
    assert subprocess.run(command, check=False).returncode == -9
    assert not out.exists()
    assert (tmp_path / ".out.partial" / ".reviews").is_dir()
  prepare(out=out, format="synthetic", users=300)
  files = [
    {
      path.relative_to(folder): storage.sha256_of(path)
      for path in folder.rglob("*")
      if path.is_file()
    }
    for folder in (out, whole.path)
  ]
  assert files[0] == files[1]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_what_is_sorted_in_pieces_is_the_same(tmp_path, monkeypatch):
  """A piece may begin within a user, whose positions go on in it."""
  frames = []
  for name, piece in (("whole", 1 << 17), ("pieces", 7)):
    monkeypatch.setattr(review_store, "_PIECE", piece)
    made = prepare(out=tmp_path / name, format="synthetic", users=300)
    frames.append(pl.read_parquet(made.path / "interactions.parquet"))
  assert frames[0].equals(frames[1])
