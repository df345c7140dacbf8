"""`instructrec score` by path.

python tools/score_batch.py --requests F --model DIR --out F
"""

import sys

from instructrec_jax.cli.main import main

sys.exit(main(["score", *sys.argv[1:]]))
