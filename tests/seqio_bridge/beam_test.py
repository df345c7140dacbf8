"""Tests for instructrec_jax/seqio_bridge/beam.py."""

import shutil

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed")

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.instructions import blocks
from instructrec_jax.seqio_bridge import tfds_writer
from instructrec_jax.seqio_bridge.beam import Runner, engine
from instructrec_jax.seqio_bridge.build import Options, build

from .conftest import FAMILIES

SEVERAL = ("direct_num_workers=2", "direct_running_mode=multi_processing")


@pytest.fixture
def copy(dataset, tmp_path):
  """The dataset as it was before it was built."""
  copy = tmp_path / "data"
  shutil.copytree(dataset, copy)
  for name in ("instructrec", "requests", "candidates"):
    for path in (copy / name).glob("hard*" if name == "candidates" else "*"):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  for name in ("instructions.json", "vocabulary.model", "templates.yaml"):
    (copy / name).unlink()
  return copy


def _hashes(folder):
  return {
    path.relative_to(folder): storage.sha256_of(path)
    for path in folder.rglob("*")
    if path.is_file() and "annotations" not in path.name
  }


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_what_is_written_is_the_same(dataset, copy, monkeypatch, options):
  # Blocks of other sizes, too.
  monkeypatch.setattr(blocks, "_ROWS", 50)
  build(
    copy,
    vocabulary=dataset / "vocabulary.model",
    options=Options(families=FAMILIES),
    engine=engine(Runner("DirectRunner", options)),
  )
  assert _hashes(copy) == _hashes(dataset)


def test_repeats_and_shards_are_those_of_one_process(
  dataset, copy, tmp_path, monkeypatch
):
  monkeypatch.setattr(tfds_writer, "SHARD_ROWS", 30)
  options = Options(families=("p1_i0_t2",), rows_per_target=20)
  vocabulary = dataset / "vocabulary.model"
  alone = tmp_path / "alone" / "data"
  shutil.copytree(copy, alone)
  build(alone, vocabulary=vocabulary, options=options)
  texts = []
  render = blocks.Source.rendered

  def rendered(source, block):
    found = render(source, block)
    if block.is_of_distinct:
      texts.extend((r.form, r.inputs, r.targets) for r, _ in found if r)
    return found

  monkeypatch.setattr(blocks.Source, "rendered", rendered)
  monkeypatch.setattr(blocks, "_ROWS", 40)
  on_beam = engine(Runner("DirectRunner"))
  build(copy, vocabulary=vocabulary, options=options, engine=on_beam)
  # Else it would show nothing.
  assert len({*texts}) < len(texts)
  assert [*copy.glob("instructrec/**/*-00002")]
  assert _hashes(copy) == _hashes(alone)


def test_what_a_worker_refuses_is_told_and_leaves_nothing(
  dataset, copy, monkeypatch
):
  before = _hashes(copy)

  def fail(*_):
    raise InputError("items.parquet: it is damaged.")

  monkeypatch.setattr(blocks.Source, "rendered", fail)
  with pytest.raises(InputError, match=r"^items.parquet: it is damaged.$"):
    build(
      copy,
      vocabulary=dataset / "vocabulary.model",
      options=Options(families=("p1_i0_t3",)),
      engine=engine(Runner("DirectRunner")),
    )
  left = _hashes(copy)
  assert {p: h for p, h in left.items() if "hard" not in p.name} == before


def test_runners_and_options_are_beams():
  with pytest.raises(InputError, match="'Bream', which Beam does not know"):
    Runner("Bream")
  with pytest.raises(InputError, match="'direct_workers=2', which Beam does"):
    Runner("DirectRunner", ("direct_workers=2",))
  with pytest.raises(InputError, match="beam_options: .*invalid int.*'two'"):
    Runner("DirectRunner", ("direct_num_workers=two",))
  # Its name and that of its attribute are two.
  Runner("DataflowRunner", ("worker_machine_type=n2-standard-4", "no_auth"))
  Runner("FlinkRunner", ("of_the_job_server=1",))
