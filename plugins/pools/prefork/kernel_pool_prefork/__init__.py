"""prefork pool for kernel."""
