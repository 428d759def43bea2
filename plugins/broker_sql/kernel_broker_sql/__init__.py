"""SQLite, PostgreSQL and MySQL broker for kernel."""
