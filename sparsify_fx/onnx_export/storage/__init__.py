"""How weights are stored without their zeros, and made plain again."""
