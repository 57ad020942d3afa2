"""Sockets towards clients, and the table of answers that are repeated."""
