"""How fast it is: `python -m figures` measures, and writes docs/figures.md."""
