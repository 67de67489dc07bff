"""`python -m gvcluster.cli`, for those who have no `gvcluster` on their PATH."""

import sys

from gvcluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
