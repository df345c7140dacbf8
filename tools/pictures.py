"""Makes the pictures of README and docs, in docs/images.

  .venv/bin/python tools/pictures.py
  .venv/bin/python tools/pictures.py --quickstart runs/quickstart

pipeline.svg is drawn from the words below; with --quickstart, the page and the
report of that folder are photographed too, by Chromium (Debian's package
chromium), which takes a minute or two to start the server.
"""

import argparse
import base64
import html
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
# The command, what it makes, and an example of that.
STEPS = (
  ("prepare", "reviews", "Ann bought a tent,", "then a stove"),
  ("annotate", "wishes", "“warm food, far", "from home”"),
  ("build", "instructions", "“Bought: tent. Asks", "for warm food …”"),
  ("train", "a tuned T5", "P(title | instruction)", ""),
  ("evaluate", "HR@K, NDCG@K", "beside baselines,", "with intervals"),
  ("serve", "a ranking", "1. camping stove", "2. fire pit"),
)
WIDTH, HEIGHT, GAP = 150, 108, 22
DESKTOP, PHONE = (1120, 760), (390, 760)


def pipeline() -> str:
  """Returns the figure of the pipeline as SVG."""
  total = len(STEPS) * (WIDTH + GAP) + GAP
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 150" '
    'role="img" font-family="system-ui, sans-serif" text-anchor="middle">',
    "<title>prepare, annotate, build, train, evaluate, serve</title>",
    f'<rect width="{total}" height="150" rx="8" fill="#f6f5f1"/>',
  ]
  for number, (command, makes, *example) in enumerate(STEPS):
    left = GAP + number * (WIDTH + GAP)
    middle = left + WIDTH / 2
    parts.append(
      f'<rect x="{left}" y="21" width="{WIDTH}" height="{HEIGHT}" rx="8" '
      'fill="#fff" stroke="#c9c8c1"/>'
      f'<text x="{middle}" y="46" font-size="15" font-weight="700" '
      f'fill="#14606b">{command}</text>'
      f'<text x="{middle}" y="70" font-size="14" fill="#1d2127">{makes}</text>'
    )
    for line, words in enumerate(example):
      parts.append(
        f'<text x="{middle}" y="{94 + 17 * line}" font-size="12" '
        f'fill="#575d66">{html.escape(words)}</text>'
      )
    if number:
      parts.append(
        f'<path d="M{left - GAP + 4} 75h{GAP - 10}m-5 -4l5 4l-5 4" '
        'fill="none" stroke="#14606b" stroke-width="1.6"/>'
      )
  return "\n".join([*parts, "</svg>"]) + "\n"


def photograph(quickstart: pathlib.Path) -> None:
  """Writes page.png, page-phone.png and report.png."""
  sys.path.insert(0, str(ROOT))
  from instructrec_jax.serving.app import create_app
  from instructrec_jax.serving.recommender import Recommender
  from instructrec_jax.serving.server import running
  from tests.serving.chromium import find_chromium, opened

  chromium = find_chromium()
  if chromium is None:
    sys.exit("there is no Chromium: install the package chromium.")
  recommender = Recommender.load(
    quickstart / "model", dataset=quickstart / "shop"
  )
  idle = "!document.body.hasAttribute('aria-busy')"
  with (
    tempfile.TemporaryDirectory() as profile,
    running(create_app(recommender)) as url,
    opened(chromium, pathlib.Path(profile)) as page,
  ):

    def shoot(name: str, size: tuple[int, int]) -> None:
      clip = {
        "x": 0,
        "y": 0,
        "width": size[0],
        "height": size[1],
        "scale": 0.75,
      }
      image = page.call("Page.captureScreenshot", clip=clip)
      (IMAGES / name).write_bytes(base64.b64decode(image["data"]))

    for name, size in (("page.png", DESKTOP), ("page-phone.png", PHONE)):
      page.resize(*size, mobile=size == PHONE)
      page.open("about:blank")
      page.open(
        f"{url}/#wish=a rope please&has=Alder Harness Grey&then=in green"
      )
      shown = "document.querySelectorAll('#ranking .named').length > 0"
      examples = "!document.getElementById('examples').hidden"
      page.wait(f"{idle} && {shown} && {examples}", seconds=300)
      if size == DESKTOP:
        page.evaluate("document.getElementById('why').click()")
        page.wait(
          f"{idle} && !document.getElementById('weights').hidden", seconds=300
        )
      page.evaluate("scrollTo(0, 0)")
      shoot(name, size)
    page.resize(DESKTOP[0], 1100, mobile=False)
    page.open((quickstart / "report.html").resolve().as_uri())
    shoot("report.png", (DESKTOP[0], 1100))


def main() -> None:
  """Makes what the options ask for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--quickstart", type=pathlib.Path, help="what quickstart made"
  )
  options = parser.parse_args()
  IMAGES.mkdir(parents=True, exist_ok=True)
  (IMAGES / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
  if options.quickstart:
    photograph(options.quickstart)


if __name__ == "__main__":
  main()
