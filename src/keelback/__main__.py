"""`python -m keelback` is the `keelback` command."""

from keelback.cli import main

main()
