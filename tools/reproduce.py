"""`instructrec reproduce` by path.

python tools/reproduce.py --dataset DIR --out DIR
"""

import sys

from instructrec_jax.cli.main import main

sys.exit(main(["reproduce", *sys.argv[1:]]))
