"""SQLite, PostgreSQL and MySQL result backend for kernel."""
