"""The figure in docs/architecture.md is that of the code."""

import importlib.util


def test_the_figure_shows_the_imports_of_today(root):
  spec = importlib.util.spec_from_file_location(
    "architecture", root / "tools" / "architecture.py"
  )
  tool = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(tool)
  chapters = {p.parent.name for p in tool.PACKAGE.glob("*/__init__.py")}
  assert chapters == tool.CHAPTERS.keys()
  text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
  assert f"```mermaid\n{tool.figure()}```" in text, (
    "run tools/architecture.py and put its figure into docs/architecture.md"
  )
