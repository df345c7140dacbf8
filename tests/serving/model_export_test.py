"""Tests for instructrec_jax/serving/model_export.py."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from instructrec_jax.cards import MODEL_CARD
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.conversion import convert
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import int8_gate
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.scoring.stream import score_file
from instructrec_jax.seq2seq import int8, parameters
from instructrec_jax.serving import model_export
from instructrec_jax.serving.model_export import export
from instructrec_jax.serving.recommender import Recommender

WISH = "I want something scary for tonight"
BLOCKED = (
  "tensorflow",
  "tensorflow_datasets",
  "seqio",
  "t5x",
  "gin",
  "openai",
  "polars",
  "pyarrow",
  "orbax",
  "tensorstore",
  "torch",
  "fastapi",
  "uvicorn",
  "prometheus_client",
  "orjson",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model_dir, shop):
  out = tmp_path_factory.mktemp("export") / "out"
  export(model_dir, out, dataset=shop)
  return out


@pytest.fixture
def copy(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / "copy")


def answers(recommender):
  """Scores of both kinds, by title."""
  ranked = recommender.rank(WISH, candidates=recommender.titles[:6])
  found = recommender.recommend(WISH, history=recommender.titles[:2], k=5)
  return [
    [[each.title, each.log_likelihood] for each in one.ranking]
    for one in (ranked, found)
  ]


@pytest.fixture(scope="module")
def of_the_model(model_dir, shop):
  """What the folder of `train` answers, freshly loaded."""
  return answers(Recommender.load(model_dir, dataset=shop))


def test_scores_are_those_of_the_model_to_the_bit(
  exported, recommender, of_the_model
):
  taken = Recommender.load(exported)
  assert taken.name == "tiny" and taken.titles == recommender.titles
  assert taken.templates == recommender.templates
  assert answers(taken) == of_the_model


def test_it_opens_with_jax_alone(exported, of_the_model, root):
  program = textwrap.dedent(f"""
    import json, sys
    class Blocker:
      def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
          raise ImportError("blocked: " + name)
    sys.meta_path.insert(0, Blocker())
    from instructrec_jax.serving.recommender import Recommender
    recommender = Recommender.load({str(exported)!r})
    ranked = recommender.rank({WISH!r}, candidates=recommender.titles[:6])
    found = recommender.recommend(
      {WISH!r}, history=recommender.titles[:2], k=5)
    print(json.dumps([
      [[each.title, each.log_likelihood] for each in one.ranking]
      for one in (ranked, found)
    ]))
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == of_the_model


def _absent_from_a_slim_install(root) -> set[str]:
  """Returns the modules of all packages that serve.txt does not bring."""
  lines = (root / "requirements" / "serve.txt").read_text().splitlines()
  queue = [line for line in lines if line and not line.startswith("#")]
  brought = set()
  while queue:
    requirement = Requirement(queue.pop())
    name = canonicalize_name(requirement.name)
    marker = requirement.marker
    if name in brought or (marker and not marker.evaluate({"extra": ""})):
      continue
    brought.add(name)
    queue += importlib.metadata.requires(name) or []
  return {
    module
    for module, packages in importlib.metadata.packages_distributions().items()
    if not brought & set(map(canonicalize_name, packages))
  }


def test_a_slim_install_scores_asks_and_serves(exported, root, tmp_path):
  absent = _absent_from_a_slim_install(root)
  assert {"tensorflow", "seqio", "gin", "polars"} <= absent
  requests = tmp_path / "requests.jsonl"
  requests.write_text('{"instruction": "a tent", "candidates": ["Tent"]}')
  commands = [
    ["score", "--requests", requests, "--out", tmp_path / "scores.jsonl"],
    ["ask", WISH, "--candidates", "Tent", "Rope"],
  ]
  commands = [
    [*map(str, command), "--model", str(exported)] for command in commands
  ]
  program = textwrap.dedent(f"""
    import sys
    from importlib.machinery import PathFinder
    finders = list(sys.meta_path)
    class WithoutAbsent:
      find_distributions = PathFinder.find_distributions
      @staticmethod
      def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {absent - {"instructrec_jax"}!r}:
          return None
        found = (each.find_spec(name, path, target) for each in finders)
        return next(filter(None, found), None)
    sys.meta_path[:] = [WithoutAbsent]
    from instructrec_jax.cli.main import main
    for command in {commands!r}:
      assert main(command) == 0, command
    from instructrec_jax.serving import server
    from instructrec_jax.serving.app import create_app
    from instructrec_jax.serving.recommender import Recommender
    create_app(Recommender.load({str(exported)!r}))
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "scores.jsonl").exists()


def test_items_of_one_title_share_a_line(exported, shop):
  lines = [json.loads(t) for t in (exported / "items.jsonl").open()]
  ids = [item_id for line in lines for item_id in line["item_ids"]]
  table = pq.read_table(shop / "items.parquet")
  assert sorted(ids) == sorted(table["item_id"].to_pylist())
  titles = [line["title"] for line in lines]
  assert set(titles) == set(table["title"].to_pylist())
  assert len(set(titles)) == len(titles)


def test_pictures_go_along(model_dir, shop, tmp_path):
  data = shutil.copytree(shop, tmp_path / "shop")
  numbers, images = [1, 0], ["https://a.example/1", "https://a.example/0"]
  pq.write_table(
    pa.table({"item": pa.array(numbers, pa.int32()), "image": images}),
    data / "images.parquet",
  )
  export(model_dir, tmp_path / "out", dataset=data)
  taken = Recommender.load(tmp_path / "out").images
  assert taken == Recommender.load(model_dir, dataset=data).images
  assert sorted(taken.values()) == sorted(images)
  assert not Recommender.load(model_dir, dataset=shop).images


def test_own_templates_go_along(model_dir, tmp_path):
  file = tmp_path / "mine.yaml"
  file.write_text(
    "- {name: M01, preferences: [P0], queries: [I1], task_form: T2, "
    "response: item, text: 'Somebody asks: \"{query}\". Answer it.'}"
  )
  export(model_dir, tmp_path / "out", templates=[file])
  taken = Recommender.load(tmp_path / "out")
  assert taken.templates == load_templates(file)
  assert taken.compose(WISH).instruction.startswith("Somebody asks")
  other = Recommender.load(tmp_path / "out", templates=["package"])
  assert other.templates == load_templates()


def test_every_part_of_the_package_takes_an_export(
  exported, model_dir, tmp_path
):
  requests = tmp_path / "requests.jsonl"
  request = {"instruction": WISH, "candidates": ["Long Rope", "Red Kayak"]}
  requests.write_text(json.dumps(request) + "\n")
  files = []
  for model in (model_dir, exported):
    files.append(tmp_path / f"{model.name}.jsonl")
    score_file(requests=requests, model=model, out=files[-1])
  assert files[0].read_text() == files[1].read_text()
  convert(exported, tmp_path / "back", to="ours")
  trees = [
    jax.tree.leaves(model_folder.load_params(folder)[1])
    for folder in (model_dir, exported, tmp_path / "back")
  ]
  for one, two, three in zip(*trees, strict=True):
    assert np.array_equal(one, two) and np.array_equal(one, three)


@pytest.mark.usefixtures("all_devices")
def test_bfloat16_and_devices(exported, model_dir, tmp_path):
  convert(model_dir, tmp_path / "half", to="ours", dtype="bfloat16")
  export(tmp_path / "half", tmp_path / "out")
  _, stored = model_folder.load_params(tmp_path / "half")
  _, taken = model_folder.load_params(tmp_path / "out")
  for one, two in zip(
    jax.tree.leaves(stored), jax.tree.leaves(taken), strict=True
  ):
    assert one.dtype == two.dtype == "bfloat16" and np.array_equal(one, two)
  device = jax.devices()[3]
  config = model_folder.load_config(exported)
  shardings = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(device),
    parameters.parameter_shapes(config),
  )
  _, placed = model_folder.load_params(
    exported, shardings=shardings, dtype=np.float32
  )
  assert {leaf.device for leaf in jax.tree.leaves(placed)} == {device}


@pytest.fixture(scope="module")
def validation(shop, tmp_path_factory):
  """Requests of which the model's best candidate is the target."""
  titles = [item.title for item in DatasetFolder.open(shop).items][:20]
  lines = [
    {"instruction": WISH, "candidates": titles[start : start + 4], "target": 0}
    for start in range(0, 20, 4)
  ]
  path = tmp_path_factory.mktemp("requests") / "validation.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


@pytest.fixture(scope="module")
def in_int8(model_dir, shop, validation, tmp_path_factory):
  out = tmp_path_factory.mktemp("int8") / "out"
  export(
    model_dir, out, dataset=shop, int8=True, requests=validation, epsilon=0.4
  )
  return out


def test_int8_says_what_it_changes_and_ranks_alike(
  in_int8, exported, of_the_model
):
  measured = json.loads((in_int8 / "export.json").read_text())["int8"]
  assert measured["requests"] == 5 and measured["epsilon"] == 0.4
  assert 0 < measured["largest_difference"] < 0.3
  card = (in_int8 / MODEL_CARD).read_text()
  assert f"| HR@1 in int8 | {measured['hr@1']:.4f} |" in card
  sizes = [
    (f / "model.safetensors").stat().st_size for f in (in_int8, exported)
  ]
  assert sizes[0] < sizes[1] / 3
  # A search and a ranking read the same weights.
  by_title = [
    [dict(ranking) for ranking in found]
    for found in (answers(Recommender.load(in_int8)), of_the_model)
  ]
  for ours, floats in zip(*by_title, strict=True):
    for title in ours.keys() & floats.keys():
      assert ours[title] == pytest.approx(floats[title], abs=0.3)
      assert ours[title] != floats[title]


def test_int8_is_refused_where_it_moves_hr(model_dir, validation, tmp_path):
  from_floats = int8.from_floats

  def spoiled(params):
    return from_floats(jax.tree.map(np.zeros_like, params))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(model_export.int8_weights, "from_floats", spoiled)
    with pytest.raises(InputError, match="int8 weights move HR@1 from .* to"):
      export(model_dir, tmp_path / "out", int8=True, requests=validation)
  with pytest.raises(InputError, match="name a file of them"):
    export(model_dir, tmp_path / "out", int8=True)
  with pytest.raises(InputError, match="--requests are what --int8"):
    export(model_dir, tmp_path / "out", requests=validation)
  assert not list(tmp_path.iterdir())


def test_int8_may_move_hr_neither_up_nor_down(model_dir, validation):
  config, params = model_folder.load_params(model_dir)
  nothing = jax.tree.map(np.zeros_like, params)
  for before, after in ((params, nothing), (nothing, params)):
    with pytest.raises(InputError, match="int8 weights move HR@1"):
      int8_gate.measure(
        validation,
        config=config,
        params=before,
        int8_params=after,
        vocabulary=model_folder.load_vocabulary(model_dir),
        epsilon=0.002,
      )


def test_what_needs_all_bits_takes_no_int8(in_int8, tmp_path):
  with pytest.raises(InputError, match="in int8, which is for inference"):
    convert(in_int8, tmp_path / "hf", to="hf")
  config = model_folder.load_config(in_int8)
  with pytest.raises(InputError, match="in int8, which is for inference"):
    model_folder.load_initial_params(in_int8, config)


@pytest.mark.parametrize(
  "name",
  ["model.safetensors", "vocabulary.model", "items.jsonl", "templates.yaml"],
)
def test_a_damaged_file_is_one_sentence(copy, name):
  data = bytearray((copy / name).read_bytes())
  data[len(data) // 2] ^= 1
  (copy / name).write_bytes(data)
  with pytest.raises(InputError, match=f"{name}: the file is damaged"):
    Recommender.load(copy)
  (copy / name).unlink()
  with pytest.raises(InputError, match=f"{name}: the file is missing"):
    Recommender.load(copy)


@pytest.mark.parametrize(
  ("manifest", "says"),
  [
    ("{", "not valid JSON"),
    ("[]", "where an object is expected"),
    ('{"version": 99}', "not an export of version"),
    ('{"version": 1}', "names no step"),
    ('{"version": 1, "step": 7}', "names no files"),
  ],
)
def test_a_damaged_manifest_is_one_sentence(copy, manifest, says):
  # As exports of earlier versions are, which only SHA-256 guards.
  (copy / "checksums.txt").unlink()
  (copy / "export.json").write_text(manifest)
  with pytest.raises(InputError, match=says):
    Recommender.load(copy)


def test_exports_of_before_are_guarded_by_their_sha256(copy):
  (copy / "checksums.txt").unlink()
  assert Recommender.load(copy).name == "tiny"
  with (copy / "model.safetensors").open("ab") as file:
    file.write(b"0")
  with pytest.raises(InputError, match="the file is not what export.json says"):
    Recommender.load(copy)


def test_an_export_has_one_step(exported):
  assert Recommender.load(exported, step=7).name == "tiny"
  with pytest.raises(InputError, match="of step 7, not 8"):
    Recommender.load(exported, step=8)


def test_nothing_is_replaced_or_half_written(
  exported, model_dir, shop, tmp_path
):
  before = (exported / "export.json").read_text()
  with pytest.raises(InputError, match="exists already"):
    export(model_dir, exported)
  assert (exported / "export.json").read_text() == before
  with pytest.raises(InputError, match="not a dataset folder"):
    export(model_dir, tmp_path / "out", dataset=tmp_path)
  with pytest.raises(InputError, match="would replace"):
    export(model_dir, model_dir, force=True)
  with pytest.raises(InputError, match="would replace"):
    export(model_dir, shop.parent, dataset=shop, force=True)
  with pytest.raises(InputError, match="an export already"):
    export(exported, tmp_path / "out")
  assert list(tmp_path.iterdir()) == []
  export(model_dir, tmp_path / "out", dataset=shop)
  export(model_dir, tmp_path / "out", force=True)
  assert Recommender.load(tmp_path / "out").titles == ()
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_tells_its_size_step_and_validation(
  model_dir,
  shop,
  tmp_path,
):
  log = model_dir / "metrics.jsonl"
  lines = [
    {"step": 5, "loss": 2.0, "validation/hr@1": 0.25},
    {"step": 7, "validation/hr@1": 0.5},
    {"step": 9, "validation/hr@1": 0.75},
  ]
  log.write_text("".join(json.dumps(line) + "\n" for line in lines))
  try:
    export(model_dir, tmp_path / "out", dataset=shop)
  finally:
    log.unlink()
  card = (tmp_path / "out" / MODEL_CARD).read_text()
  assert card.startswith("# Model card: tiny")
  assert "| training step | 7 |" in card
  # Of the step that is exported, not of a later one.
  assert "| hr@1 | 0.500 |" in card
  titles = len((tmp_path / "out" / "items.jsonl").read_text().splitlines())
  assert f"{titles:,} titles to recommend from" in card
  assert "## Limits" in card


def test_notes_go_beside_the_card_and_no_file_of_others_is_replaced(
  model_dir, tmp_path
):
  out = tmp_path / "out"
  export(model_dir, out)
  export(model_dir, out, force=True)
  (out / "NOTES.md").write_text("Licence: ours.\n")
  assert Recommender.load(out)
  with (out / MODEL_CARD).open("a") as card:
    card.write("Licence: ours.\n")
  with pytest.raises(InputError, match="MODEL_CARD.md"):
    Recommender.load(out)
  with pytest.raises(InputError, match="NOTES.md.*move the file away"):
    export(model_dir, out, force=True)
  (out / "NOTES.md").unlink()
  with pytest.raises(InputError, match="changed it"):
    export(model_dir, out, force=True)
  assert "ours" in (out / MODEL_CARD).read_text()


def test_a_model_without_a_catalogue_says_so(model_dir, tmp_path):
  export(model_dir, tmp_path / "bare")
  card = (tmp_path / "bare" / MODEL_CARD).read_text()
  assert "no catalogue" in card
  assert "does not say" in card
