"""The command line: ``expunge demo | fit | quote | unlearn | verify | keygen | ledger | score``."""

from expunge.cli.main import main

__all__ = ["main"]
