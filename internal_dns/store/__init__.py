"""The catalog file: reading it, noticing commits, making new ones."""
