"""The vocabulary: contracts, checks, owned randomness, arithmetic on positions."""
