"""Files: which kind one is, how it is read without trust, and how it is written whole or not at all."""
