"""Tests for instructrec_jax/cli/plan.py and training/memory_plan.py."""

import json
import subprocess
import sys

import gin
import jax
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.cli import plan as command
from instructrec_jax.cli.main import main
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.training import optimizer
from instructrec_jax.training.memory_plan import compile_step, plan_memory

CONFIG = T5Config(
  vocab_size=1024,
  emb_dim=256,
  num_heads=8,
  head_dim=32,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=512,
)
STEP = dict(batch_size=16, input_length=64, target_length=16)


@pytest.fixture(autouse=True)
def forget(all_devices):
  # jax begins with the devices of these tests, whichever comes first.
  assert len(jax.devices()) == 8
  yield
  gin.clear_config()


def plan(config=CONFIG, *, mesh="1x1", transform=None, **options):
  return plan_memory(
    config,
    transform or optimizer.adafactor(),
    mesh=mesh_lib.abstract_mesh(mesh),
    **(STEP | options),
  )


@pytest.mark.parametrize(
  ("mesh", "name", "options"),
  [
    ("4x2", "adafactor", dict()),
    ("2x4", "adamw", dict(zero=True, microbatches=2)),
    ("4x2", "adamw", dict(lora_rank=4)),
  ],
)
def test_arguments_and_outputs_are_what_xla_says(mesh, name, options):
  transform = getattr(optimizer, name)()
  config = CONFIG.replace(lora_rank=options.pop("lora_rank", 0))
  found = plan(config, mesh=mesh, transform=transform, **options)
  compiled = compile_step(
    config, transform, mesh=mesh_lib.make_mesh(mesh), **(STEP | options)
  )
  assert found.arguments == pytest.approx(compiled["arguments"], rel=0.01)
  assert found.outputs == pytest.approx(compiled["outputs"], rel=0.01)
  assert found.exchanged == pytest.approx(compiled["exchanged"], rel=0.1)
  # Of this size, XLA holds little that is not reckoned with.
  assert 0.5 < compiled["temporaries"] / found.temporaries < 2


def test_what_is_split_shrinks_with_its_axis():
  whole, data, model = plan(), plan(mesh="4x1"), plan(mesh="1x4")
  assert data.parameters == whole.parameters
  assert data.activations < whole.activations / 3
  assert model.parameters == pytest.approx(whole.parameters / 4, rel=0.01)
  zero = plan(mesh="4x1", zero=True)
  assert zero.parameters == pytest.approx(whole.parameters / 4, rel=0.01)
  assert zero.gradients == zero.parameters
  assert zero.activations == data.activations


def test_adamw_keeps_two_copies():
  found = plan(transform=optimizer.adamw())
  assert found.optimizer == pytest.approx(2 * found.parameters, rel=0.01)


def test_more_is_computed_again_the_less_is_kept():
  none, minimal, full = (
    plan(CONFIG.replace(remat_policy=policy)).activations
    for policy in ("none", "minimal", "full")
  )
  assert none > minimal > full


def test_microbatches_keep_less_and_sum_gradients():
  whole, parts = plan(), plan(microbatches=4)
  assert parts.activations < whole.activations / 3
  assert parts.gradients == 2 * whole.gradients


def test_activations_of_half_the_bits_take_less():
  halved = plan(CONFIG.replace(dtype="bfloat16"))
  assert halved.activations < 0.8 * plan().activations
  assert halved.parameters == plan().parameters


def run(capsys, *arguments):
  status = main(["plan", *arguments])
  return status, *capsys.readouterr()


def test_prints_a_line_for_each_rematerialisation(capsys):
  status, out, _ = run(
    capsys, "--size", "mini", "--mesh", "4x2", "--memory", "1GiB"
  )
  assert status == 0
  lines = out.splitlines()[2:]
  assert lines[0].split()[-1] == "total"
  assert [line.split()[0] for line in lines[1:]] == ["none", "minimal", "full"]
  for line in lines[1:]:
    *parts, total = map(float, line.split()[1:8])
    assert total == pytest.approx(sum(parts), abs=0.004)
    assert line.endswith(" 1GiB") and ("does not" in line) == (total > 1)


def test_a_model_of_ones_own_is_planned(capsys, tmp_path, root):
  file = tmp_path / "own.gin"
  file.write_text("include 'gin/model/mini.gin'\nMLP_DIM = 2048\n")
  arguments = ("--batch", "8", "--remat", "none", "--json")
  for given in (("--size", "mini"), ("--gin_file", str(file))):
    status, out, _ = run(capsys, *given, *arguments)
    assert status == 0
  (found,) = json.loads(out)
  # Three matrices in each of four layers.
  added = 4 * 3 * 4 * 128 * (2048 - 256)
  assert found["parameters"] == 4 * 9_012_992 + added


def test_compiles_on_more_devices_than_there_are(root, tmp_path):
  """In a process whose jax has not begun; `jax.devices()` is one CPU."""
  file = tmp_path / "tiny.gin"
  file.write_text(
    "include 'gin/model/mini.gin'\nNUM_LAYERS = 1\nVOCAB_SIZE = 256\n"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-m", "instructrec_jax.cli.main", "plan"),
      *("--gin_file", str(file), "--mesh", "3x4", "--batch", "12"),
      *("--input-length", "32", "--target-length", "8"),
      *("--remat", "none", "--compile"),
    ],
    capture_output=True,
    text=True,
    cwd=root,
    timeout=240,
    env={"PATH": "/usr/bin:/bin"},
  )
  assert done.returncode == 0, done.stderr
  for what in ("arguments", "outputs"):
    (line,) = [x for x in done.stdout.splitlines() if f" {what} " in x]
    assert float(line.split()[-1]) == pytest.approx(1, abs=0.01)
  assert " temporaries " in done.stdout


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (("--size", "tiny"), "--size is 'tiny': one of base, large"),
    (("--size", "small", "--mesh", "1x4"), "a dimension of 6"),
    (("--size", "mini", "--mesh", "1x3"), "model axis of 3 devices"),
    (("--size", "mini", "--mesh", "3x1"), "a batch of 128 rows"),
    (
      ("--size", "mini", "--mesh", "3x1", "--batch", "12", "--zero"),
      "data axis of 3",
    ),
    (("--size", "mini", "--mesh", "4by2"), "--mesh is '4by2'"),
    (("--size", "mini", "--mesh=-1x2"), "--mesh is '-1x2'"),
    (("--size", "mini", "--batch", "0"), "--batch is 0"),
    (("--size", "mini", "--microbatches", "3"), "3 microbatches"),
    (("--size", "mini", "--memory", "80"), "--memory is '80'"),
    (("--size", "mini", "--memory", "0GiB"), "--memory is '0GiB'"),
    (("--gin_file", "nowhere.gin"), "nowhere.gin"),
    (("--size", "mini", "--mesh", "16x4", "--compile"), "wants 64 devices"),
  ],
)
def test_what_cannot_be_is_told_in_a_sentence(capsys, arguments, said):
  status, out, error = run(capsys, *arguments)
  assert (status, out) == (2, "")
  assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
  ("text", "count"),
  [("80GiB", 80 * 2**30), ("24 GB", 24 * 10**9), ("1.5MiB", 3 * 2**19)],
)
def test_memory_is_read(text, count):
  assert command.parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "80 gigs", "1KB"])
def test_what_is_no_memory_is_refused(text):
  with pytest.raises(InputError, match="such as 80GiB"):
    command.parse_memory(text)
