"""`python -m eatnas_cli`."""

import sys
from pathlib import Path

# `-m` puts the working folder first on `sys.path`, so a user's own `random.py` there would replace Python's.
if not sys.flags.safe_path and Path(sys.path[0]) not in Path(__file__).parents:
    del sys.path[0]

from eatnas_cli.app import main

main()
