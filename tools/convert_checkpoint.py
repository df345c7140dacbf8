"""Converts a checkpoint between ours, T5X and Hugging Face: `instructrec
convert` for those who run tools by path.

  python tools/convert_checkpoint.py SOURCE DEST --to ours|hf|t5x
"""

import sys

from instructrec_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["convert", *sys.argv[1:]]))
