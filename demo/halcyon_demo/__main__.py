"""The command line."""

from halcyon_demo.cli import main

main()
