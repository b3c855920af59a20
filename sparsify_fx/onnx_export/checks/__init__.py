"""What a written file must pass before it appears: the same outputs, and how fast it is."""
