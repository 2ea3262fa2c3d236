"""Lets `python -m fewshot` do what `fewshot` does."""

from fewshot.cli import main

if __name__ == "__main__":
    main()
