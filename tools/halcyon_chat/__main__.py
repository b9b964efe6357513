"""Runs the command line for `python -m halcyon_chat`."""

from halcyon_chat.cli import main

main()
