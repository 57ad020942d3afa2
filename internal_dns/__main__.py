"""`python -m internal_dns` is the command line."""

from internal_dns.cli import main

main()
