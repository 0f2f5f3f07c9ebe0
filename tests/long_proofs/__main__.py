"""`python -m tests.long_proofs`: see proof.py."""

import sys

from tests.long_proofs.proof import main

if __name__ == "__main__":
    sys.exit(main())
