"""Scores a file of requests: `instructrec score` for those who run tools by
path.

  python tools/score_batch.py --requests F --model DIR --out F
"""

import sys

from instructrec_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["score", *sys.argv[1:]]))
