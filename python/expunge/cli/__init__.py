"""The command line: ``expunge demo | fit | quote | unlearn | verify | keygen | ledger``."""

from expunge.cli.main import main

__all__ = ["main"]
