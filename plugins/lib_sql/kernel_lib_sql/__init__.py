"""What the SQL broker, result backend and scheduler share: connections, schema, statements."""
