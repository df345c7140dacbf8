"""`instructrec generate`: files of requests, killed runs, bad input."""

import json

import pyarrow.parquet as pq
import pytest

from instructrec_jax.checkpoints import export_folder, model_folder
from instructrec_jax.cli.main import main
from instructrec_jax.generation import stream
from instructrec_jax.generation.generator import Decoding, Generator


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, config, params, vocabulary):
  path = tmp_path_factory.mktemp("model")
  model_folder.save_config(path, config)
  export_folder.write_params(path, params)
  (path / "vocabulary.model").write_bytes(vocabulary.path.read_bytes())
  export_folder.write_manifest(path, name="tiny", step=1, items=0)
  return path


@pytest.fixture
def requests(tmp_path, instructions):
  path = tmp_path / "requests.jsonl"
  lines = [
    {"request_id": f"r{n}", "instruction": text}
    for n, text in enumerate(instructions[:10])
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def _dies_at_the_second(monkeypatch):
  """Has the second chunk be a run's last; returns their sizes."""
  answered = []
  generate = Generator.generate

  def dies(self, instructions, *args, **options):
    answered.append(len(instructions))
    if len(answered) == 2:
      raise KeyboardInterrupt
    return generate(self, instructions, *args, **options)

  monkeypatch.setattr(Generator, "generate", dies)
  return answered


def test_other_titles_are_another_run(
  tmp_path, model_dir, requests, monkeypatch
):
  common = dict(
    requests=requests,
    model=model_dir,
    out=tmp_path / "out.jsonl",
    decoding=Decoding(max_tokens=6),
    batch=4,
    chunk=4,
  )
  _dies_at_the_second(monkeypatch)
  with pytest.raises(KeyboardInterrupt):
    stream.generate_file(titles=["green tent", "tent"], **common)
  stream.generate_file(titles=["green saddle", "saddle"], **common)
  assert "tent" not in (tmp_path / "out.jsonl").read_text()


def test_a_killed_run_goes_on_and_ends_the_same(
  tmp_path, model_dir, requests, monkeypatch
):
  decoding = Decoding(max_tokens=6, temperature=1.0, answers=2, seed=5)
  common = dict(
    requests=requests, model=model_dir, decoding=decoding, batch=4, chunk=4
  )
  whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
  assert stream.generate_file(out=whole, **common) == 10
  answered = _dies_at_the_second(monkeypatch)
  with pytest.raises(KeyboardInterrupt):
    stream.generate_file(out=killed, **common)
  assert not killed.exists()
  assert stream.generate_file(out=killed, **common) == 10
  # The first chunk is not answered again.
  assert answered == [4, 4, 4, 2]
  assert killed.read_bytes() == whole.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == [
    "killed.jsonl",
    "requests.jsonl",
    "whole.jsonl",
  ]


def test_parquet_and_what_it_holds(tmp_path, model_dir, requests, capsys):
  out = tmp_path / "answers.parquet"
  arguments = ["generate", "--requests", requests, "--model", model_dir]
  arguments += ["--out", out, "--max-tokens", 6, "--limit", 3, "--json"]
  assert main([*map(str, arguments)]) == 0
  assert json.loads(capsys.readouterr().out)["requests"] == 3
  rows = pq.read_table(out).to_pylist()
  assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"]
  generator = Generator.load(model_dir)
  texts = [json.loads(line) for line in requests.read_text().splitlines()]
  found = generator.generate(
    [each["instruction"] for each in texts[:3]], Decoding(max_tokens=6)
  )
  assert [row["texts"] for row in rows] == [[a.text] for (a,) in found]
  assert [row["is_whole"] for row in rows] == [[a.is_whole] for (a,) in found]
  # Nothing is replaced unasked.
  assert main([*map(str, arguments)]) == 2
  assert "exists" in capsys.readouterr().err
  assert main([*map(str, arguments), "--force"]) == 0


@pytest.mark.parametrize(
  ("line", "options", "said"),
  [
    ({"instruction": ""}, (), "line 2: `instruction` must be a text"),
    ({"instruction": "a " * 5000}, (), "bad.jsonl: the instruction of"),
    ({"instruction": "a"}, ("--top-k", "3"), "give a temperature"),
    ({"instruction": "a"}, ("--answers", "3"), "need as many beams"),
  ],
)
def test_bad_input_is_told_and_nothing_written(
  tmp_path, model_dir, capsys, line, options, said
):
  requests, out = tmp_path / "bad.jsonl", tmp_path / "answers.jsonl"
  lines = [{"instruction": "tent"}, line]
  requests.write_text("".join(json.dumps(each) + "\n" for each in lines))
  arguments = ["generate", "--requests", requests, "--model", model_dir]
  arguments += ["--out", out, "--max-tokens", "4", *options]
  assert main([*map(str, arguments)]) == 2
  assert said in capsys.readouterr().err
  left = {path.name for path in tmp_path.iterdir()} - {".answers.jsonl.lock"}
  assert left == {"bad.jsonl"}
