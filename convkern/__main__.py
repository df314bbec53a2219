"""`python -m convkern`."""

import sys

try:
    from convkern.cli import main
except KeyboardInterrupt:  # while torch is imported, which takes seconds
    print("convkern: interrupted", file=sys.stderr)
    sys.exit(130)

sys.exit(main())
