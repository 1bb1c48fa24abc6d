"""Entry point of `fv-lens` and `python -m fv_lens`."""

import sys

from .studies import shell


def main() -> None:
    """Run the command line."""
    shell.begin()
    try:
        from .studies.cli import app

        app()
    except OSError as error:
        if not shell.is_of_output(error):
            raise
        sys.exit(shell.output_failed(error))


if __name__ == "__main__":
    main()
