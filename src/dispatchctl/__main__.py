"""`python -m dispatchctl` and the console script."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:
        from dispatchctl import __version__

        sys.stdout.write(f"dispatchctl {__version__}\n")
        return
    from dispatchctl.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
