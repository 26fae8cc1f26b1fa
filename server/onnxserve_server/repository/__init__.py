"""Where models come from: folders on disk, their configuration, and what it takes to make one serve."""
