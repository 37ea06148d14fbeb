"""`python -m vlmtool` is `vlmtool`."""

from vlmtool.cli.main import run

if __name__ == "__main__":
    run()
