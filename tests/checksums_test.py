"""No byte of a checkpoint, an export or packed rows changes unseen.

INSTRUCTREC_FLIPS=200 tries so many flips for each kind and reader.
"""

import json
import os
import pathlib
import random
import shutil

import optax
import pytest

from instructrec_jax import checksums
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.conversion import convert
from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.errors import InputError
from instructrec_jax.generation.generator import Decoding
from instructrec_jax.generation.stream import generate_file
from instructrec_jax.scoring.stream import score_file
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.model_export import export
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.text.packed_dataset import PackedDataset, pack_pairs
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training import loop

EXPORTS = ("export", "int8", "converted")
FLIPS = int(os.environ.get("INSTRUCTREC_FLIPS", 10))
WORDS = "amber birch cedar delta ember fjord grove haven iris jade".split()
# Logs for people; no load reads them.
UNREAD = ("metrics.jsonl", "config.gin", "events/")


def train(folder):
  data = PackedDataset.open(folder / "packed")
  loop.train(
    model_dir=folder / "model",
    config=T5Config(
      vocab_size=data.manifest["model_vocab_size"],
      emb_dim=16,
      num_heads=2,
      head_dim=8,
      num_encoder_layers=1,
      num_decoder_layers=1,
      mlp_dim=16,
    ),
    data=data,
    optimizer=optax.adam(1e-3),
    steps=2,
    batch_size=4,
    checkpoint_period=1,
    validate=lambda _: {model_folder.BEST_METRIC: 0.5},
    config_text="",
  )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """Packed rows, a run on them, its export, and requests."""
  folder = tmp_path_factory.mktemp("original")
  texts = [" ".join(random.Random(n).sample(WORDS, 4)) for n in range(99)]
  pack_pairs(
    [(text, text.split()[0]) for text in texts],
    vocabulary=train_vocabulary(texts, folder / "v.model", size=60),
    out=folder / "packed",
    encoder_length=32,
    decoder_length=8,
  )
  train(folder)
  export(folder / "model", folder / "export")
  convert(folder / "model", folder / "converted", to="ours")
  request = {"instruction": "amber", "candidates": ["birch", "cedar"]}
  request["target"] = 0
  requests = folder / "requests.jsonl"
  requests.write_text(json.dumps(request) + "\n")
  export(
    folder / "model", folder / "int8", int8=True, requests=requests, epsilon=1
  )
  return folder


@pytest.fixture
def copy(original, tmp_path):
  return shutil.copytree(original, tmp_path / "copy")


def score(model, **options):
  out = model.parent / "scores.jsonl"
  requests = model.parent / "requests.jsonl"
  score_file(requests=requests, model=model, out=out, **options)


def generate(model):
  generate_file(
    requests=model.parent / "requests.jsonl",
    model=model,
    out=model.parent / "answers.jsonl",
    decoding=Decoding(max_tokens=2),
  )


# What is damaged, what reads it, and what the reader does not read of it.
READERS = {
  "train its rows": ("packed", train, ()),
  "resume": ("model", train, ("checkpoints/1/params", "checkpoints/1/optim")),
  "score": ("model", score, ("checkpoints/1", "checkpoints/2/optimizer")),
  "score the best": (
    "model",
    lambda model: score(model, step="best"),
    (
      "checkpoints/1/params",
      "checkpoints/1/optimizer",
      "checkpoints/2/optimizer",
    ),
  ),
  "serve": (
    "model",
    Recommender.load,
    ("checkpoints/1", "checkpoints/2/optimizer"),
  ),
  "score an export": ("export", score, ()),
  "generate": (
    "model",
    generate,
    ("checkpoints/1", "checkpoints/2/optimizer"),
  ),
  "generate with an export": ("export", generate, ()),
  "score an export in int8": ("int8", score, ()),
  "serve an export": ("export", Recommender.load, ()),
  "serve what was converted": ("converted", Recommender.load, ()),
  "convert": (
    "model",
    lambda model: convert(model, model.parent / "out", to="t5x"),
    ("checkpoints/1", "checkpoints/2/optimizer"),
  ),
}


def flips(folder: pathlib.Path, unread: tuple[str, ...], count: int):
  """Yields what was flipped, a byte of any file, and restores it after.

  Half of them lie in the large files, half in any, each file's turn alike.
  """
  rng = random.Random(0)
  files = sorted(
    path
    for path in folder.rglob("*")
    if path.is_file()
    and path.stat().st_size
    and not path.relative_to(folder).as_posix().startswith((*unread, *UNREAD))
  )
  sizes = [path.stat().st_size for path in files]
  for number in range(count):
    if number % 2:
      (path,) = rng.choices(files, sizes)
    else:
      path = files[number // 2 % len(files)]
    content = path.read_bytes()
    place = rng.randrange(len(content))
    damaged = bytearray(content)
    damaged[place] ^= rng.randrange(1, 256)
    path.write_bytes(damaged)
    yield f"byte {place} of {path}"
    path.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_byte_is_refused(name, copy):
  kind, read, unread = READERS[name]
  run = lambda: read(copy if read is train else copy / kind)  # noqa: E731
  before = sorted(copy.rglob("*"))
  for flipped in flips(copy / kind, unread, FLIPS):
    try:
      run()
    except InputError as error:
      assert str(copy / kind) in str(error) or "model folder" in str(error)
      assert "\n" not in str(error)
    else:
      pytest.fail(f"{name} took {flipped}")
  assert sorted(copy.rglob("*")) == before


def test_all_files_are_covered(original):
  for folder in (*EXPORTS, "packed", "model/checkpoints/2"):
    folder = original / folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [str(path.relative_to(folder)) for path in files]
    names.remove(checksums.FILE)
    assert not checksums.lack(folder, names)


def test_a_folder_of_before_is_told_of_once(copy, capsys):
  for path in copy.rglob(checksums.FILE):
    path.unlink()
  for _ in range(2):
    Recommender.load(copy / "model")
  said = capsys.readouterr().err.splitlines()
  (line,) = [line for line in said if "unverified" in line]
  assert line.startswith(str(copy / "model" / "checkpoints" / "2"))
  PackedDataset.open(copy / "packed")
  Checkpoints(copy / "model", best_metric="any").close()


def test_a_save_that_was_killed_before_its_last_checksums(copy):
  """Orbax writes a time and a mark last; the next start adds theirs."""
  step = copy / "model" / "checkpoints" / "2"
  last = ["_CHECKPOINT_METADATA", "commit_success.txt"]
  checksums.write(step, skip=last)
  assert checksums.lack(step, last)
  score(copy / "model")
  Checkpoints(copy / "model", best_metric="any").close()
  assert not checksums.lack(step, last)


def test_large_files_are_verified_piece_by_piece(tmp_path, monkeypatch):
  monkeypatch.setattr(checksums, "_PIECE_BYTES", 1 << 20)
  path = tmp_path / "large"
  path.write_bytes(random.Random(0).randbytes((5 << 20) + 17))
  checksums.write(tmp_path)
  checksums.verify(tmp_path, remedy="")
  for place in (0, 1 << 20, (5 << 20) + 16):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="large: the file is damaged"):
      checksums.verify(tmp_path, remedy="")
    content[place] ^= 1
    path.write_bytes(content)
  # Before the block: a thread may have read the file once the block runs.
  path.write_bytes(content[:-1] + b"!")
  with pytest.raises(InputError, match="large: the file is damaged"):
    with checksums.verified(tmp_path, remedy=""):
      raise ValueError("what a reader makes of damage")
