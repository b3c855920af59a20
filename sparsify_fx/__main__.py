"""`python -m sparsify_fx COMMAND`: the command line where the script `sparsify-fx` is not on the path."""

from sparsify_fx.cli import main

if __name__ == "__main__":
    main()
