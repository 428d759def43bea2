"""The worker: `engine` decides, `claims` fetches and settles, `processes` are its children, `running` is a task's
life in one of them.
"""
