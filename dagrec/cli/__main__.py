"""``python -m dagrec.cli``."""

from dagrec.cli import main

main()
