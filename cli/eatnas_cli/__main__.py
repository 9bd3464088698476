"""`python -m eatnas_cli`."""

from eatnas_cli.app import main

main()
