"""`python -m HyperPredictRegLib.cli` is the command too."""

from HyperPredictRegLib.cli import main

# Guarded, because the worker processes of a sweep import this file again.
if __name__ == "__main__":
    main()
