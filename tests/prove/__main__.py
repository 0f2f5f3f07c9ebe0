"""`python -m tests.prove`: see proof.py."""

import sys

from tests.prove.proof import main

if __name__ == "__main__":
    sys.exit(main())
