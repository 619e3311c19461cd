"""`python -m specbench`: the command line where no console script is installed."""

from specbench.cli.app import entry

if __name__ == "__main__":
    entry()
