"""Entry point of `python -m fewshot`, which is equivalent to the command `fewshot`."""

from fewshot.cli import main

if __name__ == "__main__":
    main()
