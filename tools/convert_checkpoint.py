"""`instructrec convert` by path.

python tools/convert_checkpoint.py SOURCE DEST --to ours|hf|t5x
"""

import sys

from instructrec_jax.cli.main import main

sys.exit(main(["convert", *sys.argv[1:]]))
