"""`python -m relume`: the same as `relume`."""

import sys

from relume.cli import main

sys.exit(main())
