"""What the command benchmark is made of."""
