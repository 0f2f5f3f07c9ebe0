"""`python -m relume`: the same as `relume`."""

from relume.cli import program

program()
