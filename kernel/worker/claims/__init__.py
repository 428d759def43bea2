"""Where messages come from: claimed from the broker under a lease, and settled there."""
