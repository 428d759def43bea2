"""A task on its way through an executor, and its end, in the process that runs it."""
