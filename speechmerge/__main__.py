"""`python -m speechmerge VERB` is `speechmerge VERB`."""
import sys

from speechmerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
