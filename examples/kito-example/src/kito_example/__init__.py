"""A template for plugins of kito."""
