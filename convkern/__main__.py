"""`python -m convkern`."""

import sys

from convkern.cli import main

sys.exit(main())
