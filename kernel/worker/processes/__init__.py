"""The processes of a worker: how children are made, fed, watched and heard."""
