"""Commands for boards in service."""
