"""Which models exist, and how their weights reach the disk."""
