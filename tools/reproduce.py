"""The paper's tables for a dataset folder: `instructrec reproduce` for those
who run tools by path.

  python tools/reproduce.py --dataset data/instruments --out results/instruments
"""

import sys

from instructrec_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["reproduce", *sys.argv[1:]]))
