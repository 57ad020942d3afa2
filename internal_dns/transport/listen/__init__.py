"""Sockets: bound here or inherited, datagrams and streams read and written."""
