"""`python -m bkd` is `bkd`."""

from bkd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
