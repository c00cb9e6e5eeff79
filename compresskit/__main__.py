"""`python -m compresskit`.

Python puts the current folder first in the import path of `-m`, so a json.py beside an artifact would be taken for the
standard library's. The folder is taken out before anything else is imported; a model named as `package.module:factory`
puts it back (`core.user_code.user_imports.import_attribute`).
"""

import sys

if not sys.flags.safe_path:
    del sys.path[0]

from .cli.main import main

main()
