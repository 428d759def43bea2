"""solo pool for kernel."""
