"""Queues, exchanges and routes: which queue, or which exchange with which routing key, a call goes to."""
