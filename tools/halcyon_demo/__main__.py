"""Runs the command line for `python -m halcyon_demo`."""

from halcyon_demo.cli import main

main()
