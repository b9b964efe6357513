"""`python -m halcyon_devcluster`."""

from halcyon_devcluster.cli import main

main()
