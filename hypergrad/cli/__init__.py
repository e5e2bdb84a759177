"""The command line: ``hypergrad train | evaluate | predict | preview | datasets``."""

from hypergrad.cli.entry import main

__all__ = ["main"]
