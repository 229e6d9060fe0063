"""`python -m landmarks`: the command `landmarks`."""

from landmarks.cli import main

main()
