"""What is not ours: towards upstreams."""
