"""The command line: ``expunge demo | fit | quote | unlearn | verify | show | predict | evaluate | ledger | score``."""

from expunge.cli.main import main

__all__ = ["main"]
