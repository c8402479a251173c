"""``python -m voxtract`` is the ``voxtract`` command."""

import sys

from voxtract.cli import main

sys.exit(main())
