"""``python -m fastnorm`` is the command `fastnorm`."""

import sys

from .cli import main

sys.exit(main())
