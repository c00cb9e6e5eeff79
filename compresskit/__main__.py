"""`python -m compresskit`."""

from .cli.main import main

main()
