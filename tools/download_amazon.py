"""Fetches the Amazon 2018 files of the paper's two datasets, or of others.

  python tools/download_amazon.py Video_Games CDs_and_Vinyl --out data/raw

A run that was cut goes on where it stopped. Then, for Games:

  instructrec prepare --format amazon2018 --expect games --out data/games \\
    --reviews data/raw/Video_Games_5.json.gz \\
    --metadata data/raw/meta_Video_Games.json.gz

With --official, the files of Amazon 2023 with one of its own splits:

  python tools/download_amazon.py Video_Games --official timestamp \\
    --out data/raw
  instructrec prepare --format amazon2023 --split official \\
    --official data/raw/timestamp/Video_Games.train.csv.gz \\
    --metadata data/raw/meta_Video_Games.jsonl.gz --out data/games2023
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
    help=f"{', '.join(download.CATEGORIES)}, or any other of the release",
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--official",
    choices=download.OFFICIAL_SPLITS,
    help="of Amazon 2023, this split of its 5-core; goes to a folder of its "
    "name, since both splits' files are called alike",
  )
  parser.add_argument(
    "--texts",
    action="store_true",
    help="with --official: the reviews, too, which are by far the largest",
  )
  parser.add_argument(
    "--base-url",
    help=f"where the files are published (default: {download.AMAZON_2018}, or "
    f"{download.AMAZON_2023} with --official; others of 2018: "
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
  if args.texts and not args.official:
    parser.error("--texts is of --official: the files of 2018 have texts")
  files = [
    file
    for category in args.categories
    for file in (
      download.official_files(category, args.official, texts=args.texts)
      if args.official
      else download.amazon_files(category)
    )
  ]
  base = args.base_url or (
    download.AMAZON_2023 if args.official else download.AMAZON_2018
  )
  names = {file.rpartition("/")[2] for file in files}
  if unknown := sorted(hashes.keys() - names):
    parser.error(f"--sha256 of {unknown[0]!r}, which is not fetched")
  try:
    _check(args.categories, args.out, hashes)
    for file in files:
      folder, _, name = file.rpartition("/")
      is_of_split = folder.startswith("benchmark/")
      path = args.out / (args.official if is_of_split else "") / name
      digest = download.download(
        f"{base.rstrip('/')}/{file}",
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
