"""``python -m fastrecon`` is ``fastrecon``."""

import sys

from .cli import main

sys.exit(main())
