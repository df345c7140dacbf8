"""README and docs: links lead somewhere, commands exist, the site builds."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

from instructrec_jax.cli import main
from instructrec_jax.cli import options as opt
from instructrec_jax.instructions.scenarios import SCENARIOS


@pytest.fixture(scope="module")
def pages(root):
  """The text of each page, by its path."""
  paths = [root / "README.md", root / "CONTRIBUTING.md"]
  paths += sorted((root / "docs").glob("*.md"))
  return {path: path.read_text(encoding="utf-8") for path in paths}


def blocks(text: str) -> list[str]:
  """Code blocks, fenced or indented, without prompts."""
  fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
  rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
  indented = re.findall(r"(?:^    .*\n)+", rest, re.M)
  return fenced + [re.sub("^    ", "", block, flags=re.M) for block in indented]


def commands(text: str) -> list[list[str]]:
  """The arguments of each `instructrec` command in code blocks."""
  found = []
  for block in blocks(text):
    for line in block.replace("\\\n", " ").splitlines():
      command = re.match(r"(?:\$ )?(?:\.venv/bin/)?instructrec (.+)", line)
      if command:
        words = shlex.split(command[1], comments=True)
        found.append(words)
  return found


def test_every_command_has_options_that_exist(pages, monkeypatch):
  # What is there is for the command to say; here, what it is called.
  monkeypatch.setattr(opt, "_checked", lambda flag, value, arg: value)
  counted = 0
  for path, text in pages.items():
    for name, *words in commands(text):
      if name.startswith("-"):
        continue
      where = f"{path.name}: instructrec {name} {shlex.join(words)}"
      assert name in main.SUBCOMMANDS, where
      is_cut = "..." in words
      words = [word for word in words if word != "..."]
      for end in (">", "|"):
        words = words[: words.index(end)] if end in words else words
      command = main._load(name)
      try:
        opt.parse(opt.Parser(prog=name), command.Options, words)
      except Exception as error:
        # Of an example that leaves out what was said before.
        assert is_cut and "required" in str(error), f"{where}: {error}"
      counted += 1
  assert counted > 40


def test_every_script_of_a_command_exists(pages, root):
  for path, text in pages.items():
    for block in blocks(text):
      for script in re.findall(
        r"\b((?:tools|benchmarks|deploy)/[\w@.-]+)", block
      ):
        assert (root / script).exists(), f"{path.name}: {script}"


def test_every_link_leads_to_a_file_and_a_heading(pages, root):
  counted = 0
  for path, text in pages.items():
    plain = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
      if re.match(r"[a-z]+:", target):
        continue
      name, _, anchor = target.partition("#")
      page = path.parent / name if name else path
      made = ("reference/commands.md", "reference/python.md")
      if name in made:
        continue
      assert page.exists(), f"{path.name}: {target}"
      if anchor:
        heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
        slugs = {
          re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
          for head in heads
        }
        assert anchor in slugs, f"{path.name}: {target}"
      counted += 1
  assert counted > 60


def test_the_scenarios_of_the_docs_are_those_that_exist(pages, root):
  text = pages[root / "docs" / "evaluation.md"]
  named = re.findall(r"^\| `(\w+)` \| <", text, re.M)
  assert named == [scenario.name for scenario in SCENARIOS]


def test_readme_is_short_and_shows_pictures(pages, root):
  text = pages[root / "README.md"]
  assert len(text.splitlines()) <= 170
  for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
    size = (root / image).stat().st_size
    assert size < 300_000, f"{image}: {size:,} bytes"


def test_the_pipelines_figure_is_what_its_script_draws(root):
  script = root / "tools" / "pictures.py"
  spec = importlib.util.spec_from_file_location("pictures", script)
  assert spec and spec.loader
  pictures = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(pictures)
  figure = root / "docs" / "images" / "pipeline.svg"
  assert figure.read_text(encoding="utf-8") == pictures.pipeline()


def test_the_python_of_readme_names_what_exists(pages, root):
  import instructrec_jax as ir

  (code,) = re.findall(r"```python\n(.*?)```", pages[root / "README.md"], re.S)
  compile(code, "README.md", "exec")
  assert "ir.Recommender.load" in code and hasattr(ir.Recommender, "recommend")


def test_the_site_builds_without_a_warning(root, tmp_path):
  pytest.importorskip("material")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path],
    cwd=root,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  page = (tmp_path / "reference" / "commands.html").read_text()
  for name in main.SUBCOMMANDS:
    assert f'id="{name}"' in page
  # What a page loads is of the site itself.
  for path in tmp_path.rglob("*.html"):
    html = path.read_text(encoding="utf-8")
    assert not re.search(
      r'<(?:script|link|img)[^>]+(?:src|href)="http', html
    ), path
