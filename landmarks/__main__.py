"""`python -m landmarks`: the command `landmarks`."""

from landmarks.asking.cli import main

main()
