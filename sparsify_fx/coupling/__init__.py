"""Which channels, heads and blocks of a model must live or die together."""
