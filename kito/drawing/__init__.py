"""Pictures of what was rewritten."""
