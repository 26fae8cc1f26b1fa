"""Models on disk: their directories, their configuration, and how one is loaded and stopped."""
