"""The answer table: replies that may be repeated."""
