"""threads pool for kernel."""
