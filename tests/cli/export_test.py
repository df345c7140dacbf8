"""`instructrec export`, as one would type it, and `ask` of what it writes."""

import json

import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import train_vocabulary


@pytest.fixture(scope="module")
def folders(tmp_path_factory, random_params):
  """A shop, and a folder of `train` with random weights."""
  path = tmp_path_factory.mktemp("export")
  shop, model = path / "shop", path / "tiny"
  prepare(format="synthetic", users=60, min_count=2, out=shop)
  texts = [template.text for template in load_templates()]
  texts += pq.read_table(shop / "items.parquet")["title"].to_pylist()
  vocabulary = train_vocabulary(texts, model / "vocabulary.model", size=600)
  config = T5Config(
    vocab_size=vocabulary.model_vocab_size,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
  )
  model_folder.save_config(model, config)
  params = random_params(config)
  step = model / model_folder.CHECKPOINTS / "7"
  ocp.PyTreeCheckpointer().save(step / "params", params)
  return shop, model


def run(capsys, *arguments):
  assert main([*map(str, arguments)]) == 0
  return capsys.readouterr().out


def test_an_export_is_asked_like_its_model(folders, tmp_path, capsys):
  shop, model = folders
  out = tmp_path / "out"
  said = run(
    capsys, "export", "--model", model, "--dataset", shop, "--out", out
  )
  count = len(set(pq.read_table(shop / "items.parquet")["title"].to_pylist()))
  assert said == f"{out}: tiny of step 7, {count:,} titles\n"
  wish = "I want something for tonight"
  alone, together = (
    run(capsys, "ask", wish, "--model", *arguments, "--json", "--top", count)
    for arguments in ([out], [model, "--dataset", shop])
  )
  assert json.loads(alone) == json.loads(together)
  assert len(json.loads(alone)["ranking"]) == count


def test_programs_get_the_manifest(folders, tmp_path, capsys):
  _, model = folders
  out = tmp_path / "out"
  arguments = ["export", "--model", model, "--out", out, "--step", 7]
  said = json.loads(run(capsys, *arguments, "--json"))
  manifest = json.loads((out / "export.json").read_text())
  assert said == {"out": str(out), **manifest} and said["items"] == 0
  assert run(capsys, *arguments, "--force")


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["--step", "8"], "no checkpoint of step 8"),
    (["--step", "best"], "no checkpoint was validated"),
    (["--dataset", "nowhere"], "not a dataset folder"),
    (["--templates", "nowhere.yaml"], "'nowhere.yaml': no such file"),
    (["--model", "nowhere"], "not a model folder"),
    (["--out", "."], "is where this runs"),
  ],
)
def test_bad_input_is_one_sentence_and_2(
  folders, tmp_path, arguments, says, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  _, model = folders
  given = ["--model", str(model), "--out", "out", *arguments]
  assert main(["export", *given]) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert says in line and not list(tmp_path.iterdir())
