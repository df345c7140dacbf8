"""A small shop whose experiments are reproduced once for all tests."""

import contextlib
import dataclasses
import importlib
import pathlib
from typing import NamedTuple

import pytest

from instructrec_jax import storage
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.templates import (
  dump_templates,
  load_templates,
)
from instructrec_jax.reproduction.reproduce import reproduce
from instructrec_jax.reproduction.run import step_key
from instructrec_jax.reproduction.settings import Settings
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.teacher.annotate import annotate_offline

# One of each kind that the tables ask for, and no more: few tasks pack soon.
TEMPLATES = ("A01", "A07", "A16", "B07", "C10")
FAMILIES = (
  "p1_i0_t3",
  "p1_i0_t2",
  "p0_i2_t3",
  "p1_p2_t3",
  "p1_i1_t3",
  "p1_i2_t3",
  "p0_i1star_t3",
  "p2_i0_t2",
)
RECIPE = """
include 'gin/model/mini.gin'
include 'gin/run/train.gin'
EMB_DIM = 16
NUM_HEADS = 1
HEAD_DIM = 8
NUM_LAYERS = 1
MLP_DIM = 16
TRAIN_STEPS = 3
BATCH_SIZE = 2
INPUT_LENGTH = 192
TARGET_LENGTH = 32
CHECKPOINT_PERIOD = 2
LOG_PERIOD = 1
VALIDATION_LIMIT = 4
"""


class InProcess:
  """Runs steps here, where everything is imported already; keeps their argv."""

  def __init__(self):
    self.ran: list[str] = []

  def __call__(self, argv, *, stdout, log, tick):
    self.ran.append(" ".join(argv))
    tick()
    with (
      log.open("a") as errors,
      stdout.open("a") as printed,
      contextlib.redirect_stderr(errors),
      contextlib.redirect_stdout(printed),
    ):
      return importlib.import_module(argv[0]).main(list(argv[1:]))


class Step(NamedTuple):
  """What `Run.step` was called with."""

  name: str
  argv: list[str]
  key: str


class Recorder:
  """A `Run` that runs nothing, but notes the steps in their order."""

  def __init__(self):
    self.steps: dict[str, Step] = {}

  def step(self, name, title, argv, *, makes, reads=(), after=(), **_):
    argv = [str(word) for word in argv]
    # What steps before it make is not there, as they were not run.
    there = [path for path in reads if pathlib.Path(path).exists()]
    hashes = {str(path): storage.sha256_of(path) for path in there}
    key = step_key(argv, hashes, {n: self.steps[n].key for n in after})
    self.steps[name] = Step(name, argv, key)


@dataclasses.dataclass(frozen=True)
class Reproduced:
  """A reproduction that is done."""

  settings: Settings
  manifest: dict
  execute: InProcess

  @property
  def out(self) -> pathlib.Path:
    """Where it is."""
    return self.settings.out


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
  """All tables, with a tiny model of a few steps."""
  folder = tmp_path_factory.mktemp("reproduction")
  shop, other = folder / "shop", folder / "other"
  prepare(format="synthetic", users=60, min_count=0, out=shop, seed=0)
  prepare(format="synthetic", users=30, min_count=0, out=other, seed=1)
  annotate_offline(shop)
  templates = folder / "templates.yaml"
  templates.write_text(
    dump_templates(
      [t for t in load_templates("package") if t.name in TEMPLATES]
    )
  )
  build(
    shop,
    train_vocabulary_size=500,
    options=Options(
      templates=(str(templates),), families=FAMILIES, input_length=192
    ),
  )
  recipe = folder / "tiny.gin"
  recipe.write_text(RECIPE)
  return Settings(
    dataset=shop,
    out=folder / "out",
    recipe=recipe,
    ladder_steps=2,
    limit=12,
    rankers=("random", "popularity", "cooccurrence", "model"),
    unseen=other,
  )


@pytest.fixture(scope="session")
def reproduced(settings):
  """What comes of it."""
  execute = InProcess()
  manifest = reproduce(settings, execute=execute, command="instructrec ...")
  return Reproduced(settings, manifest, execute)
