"""The notebooks of docs/ run from top to bottom, with a tiny model."""

import shutil

import pytest

from instructrec_jax.serving.model_export import export

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
CUSTOMERS = 24


@pytest.fixture
def place(root, tmp_path, model_dir, shop):
  """A copy of the notebooks, and all that they would take long to make."""
  shutil.copytree(root / "docs" / "own-data", tmp_path / "own-data")
  purchases = tmp_path / "own-data" / "purchases.csv"
  lines = purchases.read_text().splitlines(keepends=True)
  few = [line for line in lines[1:] if line < f"c{CUSTOMERS + 1:03d}"]
  purchases.write_text("".join([lines[0], *few]))
  folder = tmp_path / "notebooks"
  folder.mkdir()
  run = folder / "runs" / "quickstart"
  run.mkdir(parents=True)
  (run / "model").symlink_to(model_dir)
  (run / "shop").symlink_to(shop)
  export(model_dir, folder / "model", dataset=shop)
  return folder


@pytest.mark.parametrize("name", ["quickstart", "rerank-your-own-data"])
def test_a_notebook_runs(name, root, place):
  path = root / "docs" / "notebooks" / f"{name}.ipynb"
  notebook = nbformat.read(path, as_version=4)
  cells = [each for each in notebook.cells if each.cell_type == "code"]
  # Outputs would go stale.
  assert not any(each.outputs or each.execution_count for each in cells)
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name="python3",
    resources={"metadata": {"path": str(place)}},
  )
  client.execute()
  shown = [text for each in cells for text in _texts(each.outputs)]
  assert len(shown) >= 4 and all(shown)
  if name == "rerank-your-own-data":
    assert (place / "ranked.csv").read_text().count("\n") == CUSTOMERS * 10 + 1


def _texts(outputs):
  return [
    each.get("text") or each.data["text/plain"]
    for each in outputs
    if each.output_type in ("stream", "execute_result")
  ]
