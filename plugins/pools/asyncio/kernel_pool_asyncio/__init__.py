"""asyncio pool for kernel."""
