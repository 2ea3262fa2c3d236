"""Entry point of `fewshot` and `python -m fewshot`."""

import os
import sys

from fewshot.doctor import system_problem


def main() -> None:
    """Run the command line; a missing package is one line that says how to install it, exit status 2."""
    if problem := system_problem():
        sys.exit(f"error: {problem}")
    from fewshot.training.stop_signals import EXIT_STOPPED, raise_on_signals

    try:
        raise_on_signals()
        if "FEWSHOT_WARM" in os.environ:
            from fewshot.warm.client import hand_over

            hand_over()
        from fewshot import cli

        cli.main()
    except KeyboardInterrupt as stop:  # while importing or handing over
        print(stop, file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "fewshot":
            raise
        print(
            f"error: the package {package!r} is not installed; run: pip install 'fewshot-workflow[workflow,glyphs]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
