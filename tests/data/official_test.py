"""Tests of `prepare --split official`: small files of the benchmark's form."""

import gzip
import json

import numpy as np
import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.amazon import official_files
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError

ITEMS = [f"B0{i:08}" for i in range(30)]
USERS = [f"AE{u:026}" for u in range(12)]
HOUR = 3_600_000
NOON = 1_600_000_000_000
# The moments of the benchmark's own `timestamp` are absolute, too.
MOMENTS = (NOON + 140 * HOUR, NOON + 170 * HOUR)


def purchases():
  """Returns lists of (item, milliseconds) by user, oldest first."""
  rng = np.random.default_rng(0)
  return [
    [
      (ITEMS[item], NOON + HOUR * int(hour))
      for item, hour in zip(
        rng.permutation(len(ITEMS))[: 6 + user],
        np.sort(rng.permutation(200)[: 6 + user]),
        strict=True,
      )
    ]
    for user in range(len(USERS))
  ]


def write_benchmark(folder, *, split, histories=False, ending=".csv"):
  """Writes the three files, in the benchmark's order; returns the first."""
  header = "user_id,parent_asin,rating,timestamp"
  files = {
    name: [header + ",history" * histories]
    for name in ("train", "valid", "test")
  }
  for user, own in zip(USERS, purchases(), strict=True):
    for place, (item, time) in enumerate(own):
      if split == "last_out":
        name = {1: "test", 2: "valid"}.get(len(own) - place, "train")
      else:
        name = ("train", "valid", "test")[sum(time >= m for m in MOMENTS)]
      row = f"{user},{item},5.0,{time}"
      if histories:
        row += "," + " ".join(earlier for earlier, _ in own[:place])
      files[name].append(row)
  for name, rows in files.items():
    content = ("\n".join(rows) + "\n").encode()
    path = folder / f"Toys.{name}{ending}"
    path.write_bytes(gzip.compress(content) if "gz" in ending else content)
  return folder / f"Toys.train{ending}"


def write_metadata(folder, items=ITEMS):
  path = folder / "meta.jsonl"
  rows = [{"parent_asin": i, "title": f"Title {i}"} for i in items]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def write_reviews(folder, users=USERS):
  path = folder / "reviews.jsonl"
  rows = [
    {
      "user_id": user,
      "parent_asin": item,
      "timestamp": time,
      "rating": 5.0,
      "title": f"head {user} {item}",
      "text": f"text {user} {item}",
    }
    for user, own in zip(users, purchases(), strict=True)
    for item, time in own
  ]
  # A second review of the same, and one of somebody who is not in the core.
  rows.append({**rows[0], "timestamp": rows[0]["timestamp"] + 1000})
  rows.append({**rows[0], "user_id": "AEsomebody"})
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def make(tmp_path, train, items=ITEMS, **options):
  return prepare(
    out=tmp_path / "out",
    format="amazon2023",
    split="official",
    official=train,
    metadata=write_metadata(tmp_path, items=items),
    **options,
  )


@pytest.mark.parametrize("histories", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_the_last_two_are_held_out_as_the_files_say(
  tmp_path, histories, ending
):
  train = write_benchmark(
    tmp_path, split="last_out", histories=histories, ending=ending
  )
  folder = make(tmp_path, train)
  ids = [item.item_id for item in folder.items]
  names = folder.interactions["user_id"].unique(maintain_order=True).to_list()
  for number, name in enumerate(names):
    own = [item for item, _ in purchases()[USERS.index(name)]]
    found = [ids[i] for i in folder.sequences.user(number)]
    assert found == own
  splits = folder.splits
  lengths = folder.sequences.lengths
  assert splits.test.positions.tolist() == (lengths - 1).tolist()
  assert splits.validation.positions.tolist() == (lengths - 2).tolist()
  assert folder.manifest["inputs"].keys() == {
    *("official train", "official valid", "official test", "metadata")
  }
  assert not [n for n in folder.manifest["notes"] if "targets" in n]


def test_two_moments_and_several_lines_of_a_user(tmp_path):
  train = write_benchmark(tmp_path, split="timestamp")
  folder = make(tmp_path, train, max_items=4)
  times = folder.timestamps
  mask = folder.splits.training_mask(folder.sequences)
  assert times[mask].max() < MOMENTS[0] / 1000 <= times[~mask].min()
  # Only what trains is cut to the last items.
  assert folder.splits.training_lengths.max() == 4
  held_out = [t for own in purchases() for _, t in own if t >= MOMENTS[0]]
  assert (~mask).sum() == len(held_out)
  tested = {
    user: max(place for place, (_, time) in enumerate(own))
    for user, own in zip(USERS, purchases(), strict=True)
    if own[-1][1] >= MOMENTS[1]
  }
  assert len(folder.splits.test.users) == len(tested)
  lines = sum(t >= MOMENTS[1] for own in purchases() for _, t in own)
  assert lines > len(tested)
  assert (
    f"of {lines} interactions of the test split, {len(tested)} are targets: "
    "each user's last, where the user had an item before."
  ) in folder.manifest["notes"]


def test_items_without_a_title_go(tmp_path):
  train = write_benchmark(tmp_path, split="last_out")
  folder = make(tmp_path, train, items=ITEMS[1:])
  bought = sum(i == ITEMS[0] for own in purchases() for i, _ in own)
  assert folder.manifest["counts"]["of_items_without_title"] == bought > 0


def test_reviews_only_add_texts(tmp_path):
  train = write_benchmark(tmp_path, split="last_out")
  bare = make(tmp_path, train).interactions
  folder = prepare(
    out=tmp_path / "texts",
    format="amazon2023",
    split="official",
    official=train,
    metadata=tmp_path / "meta.jsonl",
    reviews=write_reviews(tmp_path),
  )
  texts = folder.interactions
  assert texts.drop("summary", "text").equals(bare.drop("summary", "text"))
  ids = [folder.items[item].item_id for item in texts["item"]]
  assert texts["text"].to_list() == [
    f"text {user} {item}"
    for user, item in zip(texts["user_id"], ids, strict=True)
  ]
  assert set(bare["text"]) == {""}
  assert folder.manifest["counts"]["without_review"] == 0


@pytest.mark.parametrize(
  ("spoil", "why"),
  [
    (lambda f: (f / "Toys.valid.csv").unlink(), "valid.csv: cannot be read"),
    (
      lambda f: (f / "Toys.test.csv").write_text("A,B,5.0,1600000000000\n"),
      "test.csv: its first line is 'A,B,5.0,1600000000000', not user_id,",
    ),
    (
      lambda f: (f / "Toys.test.csv").write_text(
        "user_id,parent_asin,rating,timestamp\n"
      ),
      "test.csv: holds not one interaction",
    ),
    (
      lambda f: (f / "Toys.test.csv").write_text(
        "user_id,parent_asin,rating,timestamp\nA,B,5.0,soon\n"
      ),
      "the rating '5.0' or the time 'soon' is no number",
    ),
  ],
)
def test_files_that_are_not_the_benchmarks(tmp_path, spoil, why):
  train = write_benchmark(tmp_path, split="last_out")
  spoil(tmp_path)
  with pytest.raises(InputError, match=why):
    make(tmp_path, train)
  assert not (tmp_path / "out").exists()


def test_reviews_of_another_category_are_told(tmp_path):
  train = write_benchmark(tmp_path, split="last_out")
  others = write_reviews(tmp_path, users=[f"X{user}" for user in USERS])
  with pytest.raises(InputError, match="both of one category of Amazon 2023"):
    make(tmp_path, train, reviews=others)


def test_a_broken_line_is_counted(tmp_path):
  train = write_benchmark(tmp_path, split="last_out")
  train.write_text(train.read_text() + "AE1,B01,5.0\nAE1,B01,5.0,1600000000\n")
  broken = make(tmp_path, train).manifest["broken_lines"][str(train)]
  assert broken["count"] == 2
  assert "3 fields under 4 columns" in broken["first"][0]
  assert "is before 1973: multiply seconds by 1000" in broken["first"][1]


def test_the_three_files_are_named_by_the_first(tmp_path):
  named = official_files(tmp_path / "Toys_and_Games.train.csv.gz")
  assert [path.name for path in named.values()] == [
    f"Toys_and_Games.{split}.csv.gz" for split in ("train", "valid", "test")
  ]
  with pytest.raises(InputError, match="CATEGORY.train.csv"):
    official_files(tmp_path / "Toys_and_Games.csv")


@pytest.mark.parametrize(
  ("options", "why"),
  [
    ("--split official", "--split official and --official FILE"),
    ("--official {}", "--split official and --official FILE"),
    ("--split official --official {} --min-count 3", "--min-count is not of"),
    (
      "--split official --official {} --test-from 2020-01-01",
      "are of --split global-time, not of official",
    ),
    ("--split official --official meta.jsonl", "CATEGORY.train.csv (or"),
  ],
)
def test_options_that_do_not_go_together(
  tmp_path, monkeypatch, capsys, options, why
):
  monkeypatch.chdir(tmp_path)
  train = write_benchmark(tmp_path, split="last_out")
  write_metadata(tmp_path)
  arguments = "prepare --format amazon2023 --metadata meta.jsonl --out out "
  assert main((arguments + options.format(train)).split()) == 2
  error = capsys.readouterr().err
  assert why in error
  assert error.count("\n") == 1
  assert not (tmp_path / "out").exists()


def test_the_command_prepares_it(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  write_benchmark(tmp_path, split="timestamp", ending=".csv.gz")
  write_metadata(tmp_path)
  arguments = "prepare --format amazon2023 --metadata meta.jsonl --out out "
  arguments += "--split official --official Toys.train.csv.gz"
  assert main(arguments.split()) == 0
  assert "| out     | 12 " in capsys.readouterr().out
  assert DatasetFolder.open(tmp_path / "out").splits.test.users.size
