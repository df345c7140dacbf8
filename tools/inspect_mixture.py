"""Shows a SeqIO mixture: `instructrec inspect` for those who run tools by path.

python tools/inspect_mixture.py instructrec_all_v1 --dataset data/games
"""

import sys

from instructrec_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["inspect", *sys.argv[1:]]))
