"""Fetches the Amazon 2018 files of the paper's two datasets, or of others.

  python tools/download_amazon.py Video_Games CDs_and_Vinyl --out data/raw

A run that was cut goes on where it stopped. Then, for Games:

  instructrec prepare --format amazon2018 --expect games --out data/games \\
    --reviews data/raw/Video_Games_5.json.gz \\
    --metadata data/raw/meta_Video_Games.json.gz
"""

import argparse
import pathlib
import re
import sys

from instructrec_jax.data import download
from instructrec_jax.errors import InputError


def _check(
  categories: list[str], out: pathlib.Path, hashes: dict[str, str]
) -> None:
  """Raises InputError if something cannot be, before anything is fetched."""
  for name, digest in hashes.items():
    if not re.fullmatch("[0-9a-fA-F]{64}", digest):
      raise InputError(
        f"--sha256 of {name} is {digest!r}: 64 hexadecimal digits are needed."
      )
  for category in categories:
    if not re.fullmatch(r"\w+", category):
      raise InputError(f"{category!r} is no category, such as Video_Games.")
  if out.exists() and not out.is_dir():
    raise InputError(f"--out is {out}: it is a file, where a folder is needed.")


def main(arguments: list[str]) -> int:
  """Fetches the files and prints their hashes; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "categories",
    nargs="+",
    metavar="CATEGORY",
    help=f"{', '.join(download.CATEGORIES)}, or any other of Amazon 2018",
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--base-url",
    default=download.AMAZON_2018,
    help="where the files are published (default: %(default)s; others: "
    f"{', '.join(download.MIRRORS)})",
  )
  parser.add_argument(
    "--sha256",
    action="append",
    default=[],
    metavar="FILE=HEX",
    help="what a file must have; may be given for each",
  )
  args = parser.parse_args(arguments)
  hashes = dict(pair.rpartition("=")[::2] for pair in args.sha256)
  files = [f for c in args.categories for f in download.amazon_files(c)]
  names = {file.rpartition("/")[2] for file in files}
  if unknown := sorted(hashes.keys() - names):
    parser.error(f"--sha256 of {unknown[0]!r}, which is not fetched")
  try:
    _check(args.categories, args.out, hashes)
    for file in files:
      path = args.out / file.rpartition("/")[2]
      digest = download.download(
        f"{args.base_url.rstrip('/')}/{file}",
        path,
        sha256=hashes.get(path.name),
      )
      print(f"{digest}  {path}", flush=True)
  except InputError as error:
    print(f"download_amazon: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
