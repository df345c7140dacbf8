"""`instructrec inspect` by path.

python tools/inspect_mixture.py MIXTURE --dataset DIR
"""

import sys

from instructrec_jax.cli.main import main

sys.exit(main(["inspect", *sys.argv[1:]]))
